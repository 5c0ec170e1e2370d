//! `seeds DIRECTORY`: writes every target's seeds to `DIRECTORY/TARGET/NAME`, and its words to `DIRECTORY/TARGET.dict`.

// What is instrumented cannot be linked without it.
use libfuzzer_sys as _;

use std::fs;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let directory = PathBuf::from(std::env::args_os().nth(1).expect("the directory to write to"));
    for target in fuzz::TARGETS {
        let seeds = directory.join(target.name);
        fs::create_dir_all(&seeds)?;
        for (name, input) in (target.seeds)() {
            (target.check)(&input);
            fs::write(seeds.join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")), input)?;
        }
        let lines = (target.words)().into_iter().map(|word| format!("\"{}\"\n", escaped(&word)));
        // libFuzzer takes no empty file.
        let lines = std::iter::once("# words\n".to_owned()).chain(lines).collect::<String>();
        fs::write(directory.join(target.name).with_extension("dict"), lines)?;
    }
    Ok(())
}

/// As libFuzzer reads it: <https://llvm.org/docs/LibFuzzer.html#dictionaries>.
fn escaped(word: &str) -> String {
    word.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' => format!("\\{}", char::from(byte)),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect()
}
