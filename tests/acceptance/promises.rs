//! PROMISES.md names a test for each promise; these tests hold it to that. Whether a test proves the
//! promise is for its reader to say.

use std::fs;
use std::path::{Path, PathBuf};

use fanfare_bench::ATTACKS;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every source file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn has_test(files: &[PathBuf], name: &str) -> bool {
    let wanted = format!("fn {name}(");
    files.iter().any(|file| fs::read_to_string(file).expect("a source is text").contains(&wanted))
}

fn promises() -> String {
    fs::read_to_string(root().join("PROMISES.md")).expect("PROMISES.md is there")
}

#[test]
fn every_attack_is_listed() {
    let promises = promises();
    let missing: Vec<_> =
        ATTACKS.iter().filter(|attack| !promises.contains(&format!("`{}`", attack.name))).collect();
    assert!(missing.is_empty(), "PROMISES.md says nothing of {missing:?}");
}

#[test]
fn every_test_that_is_named_exists() {
    let promises = promises();
    let named: Vec<(&str, &str)> =
        promises.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::")).collect();
    assert!(named.len() > 40, "the names are found: {}", named.len());
    let missing: Vec<_> = named
        .iter()
        .filter(|(place, name)| {
            let module = root().join("tests/acceptance").join(format!("{place}.rs"));
            let files = match *place {
                "broker" | "hub" | "websocket" | "protocol" | "gateway" => {
                    sources(&root().join("crates").join(place))
                }
                // The crate's, or those of its face.
                "bench" => [sources(&root().join("crates").join(place)), vec![module]].concat(),
                _ => vec![module],
            };
            !has_test(&files, name)
        })
        .collect();
    assert!(missing.is_empty(), "PROMISES.md names tests that are not there: {missing:?}");
}
