//! Patterns as Redis has them, so that a pattern means the same without Redis. They match bytes, not letters: `?` is
//! one byte.

/// Whether the whole of `text` is what `pattern` says: `*` any bytes, `?` one byte, `[a-z]` and `[^a-z]` one of a
/// class, `\` before a byte that is meant as it is.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on if what follows the last star does not fit: one byte further. Earlier stars need not be tried
    // again, which keeps it from taking forever.
    let (mut pattern, mut text) = (pattern, text);
    let mut again = None;
    loop {
        if let Some(rest) = pattern.strip_prefix(b"*") {
            pattern = rest;
            again = Some((rest, text));
            continue;
        }
        match (text.split_first(), one(pattern, text.first().copied())) {
            (None, _) if pattern.is_empty() => return true,
            (Some((_, left)), Some(rest)) => (pattern, text) = (rest, left),
            _ => {
                let Some((behind, from)) = again else { return false };
                let Some((_, from)) = from.split_first() else { return false };
                again = Some((behind, from));
                (pattern, text) = (behind, from);
            }
        }
    }
}

/// The rest of a pattern that is no star and whose first element fits `byte`.
fn one(pattern: &[u8], byte: Option<u8>) -> Option<&[u8]> {
    let byte = byte?;
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', class @ ..] => {
            let (fits, rest) = class_fits(class, byte);
            fits.then_some(rest)
        }
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte).then_some(rest),
    }
}

/// Whether `byte` is in the class that begins here, and what follows it. A class without an end goes to the end.
fn class_fits(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut fits = false;
    loop {
        class = match class {
            [] => return (fits != negated, class),
            [b']', rest @ ..] => return (fits != negated, rest),
            [b'\\', literal, rest @ ..] => {
                fits |= *literal == byte;
                rest
            }
            [from, b'-', to, rest @ ..] => {
                fits |= (*from.min(to)..=*from.max(to)).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                fits |= *literal == byte;
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_redis() {
        let rows = [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("chat:*", "chat:room", true),
            ("chat:*", "chat:", true),
            ("chat:*", "news:", false),
            ("*:*:end", "a:b:c:end", true),
            ("*ab", "aab", true),
            ("*aab", "aaaab", true),
            ("*ab*", "xxa", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[abc", "c", true),
            ("[\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("**a", "bba", true),
        ];
        for (pattern, text, expected) in rows {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_longer_than_their_product() {
        let (pattern, text) = ("*a".repeat(100) + "b", "a".repeat(10_000));
        assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    }
}
