//! The grammar of `Sec-WebSocket-Extensions` (RFC 6455 §9.1), for offers and answers alike.
//!
//! It knows no extension. Empty elements of the list are skipped, as every reader of such a list must do (RFC 9110
//! §5.6.1.2); nothing else that the grammar does not have is let through.

use std::borrow::Cow;

/// One element of the list, as it was written but for the quotes of a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extension<'h> {
    pub(super) name: &'h str,
    pub(super) parameters: Vec<Parameter<'h>>,
}

pub(super) type Parameter<'h> = (&'h str, Option<Cow<'h, str>>);

/// The elements of one line of the header; `None` when it does not follow the grammar.
pub(super) fn extensions(line: &[u8]) -> Option<Vec<Extension<'_>>> {
    let mut scanner = Scanner { rest: line };
    let mut list = Vec::new();
    loop {
        if let Some(name) = scanner.token() {
            list.push(Extension { name, parameters: scanner.parameters()? });
        }
        if !scanner.eat(b',') {
            return scanner.rest.is_empty().then_some(list);
        }
    }
}

struct Scanner<'h> {
    rest: &'h [u8],
}

impl<'h> Scanner<'h> {
    fn parameters(&mut self) -> Option<Vec<Parameter<'h>>> {
        let mut parameters = Vec::new();
        while self.eat(b';') {
            let name = self.token()?;
            let value = if self.eat(b'=') { Some(self.value()?) } else { None };
            parameters.push((name, value));
        }
        Some(parameters)
    }

    fn value(&mut self) -> Option<Cow<'h, str>> {
        if self.eat(b'"') { self.quoted().map(Cow::Owned) } else { self.token().map(Cow::Borrowed) }
    }

    /// What is left of a quoted string, which "MUST conform to the token ABNF" without its quotes (RFC 6455 §9.1).
    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        loop {
            match self.rest.split_off_first()? {
                b'"' => break,
                b'\\' => value.push(token_char(*self.rest.split_off_first()?)?),
                byte => value.push(token_char(*byte)?),
            }
        }
        self.skip_space();
        (!value.is_empty()).then_some(value)
    }

    fn token(&mut self) -> Option<&'h str> {
        self.skip_space();
        let end = self.rest.iter().position(|&byte| token_char(byte).is_none()).unwrap_or(self.rest.len());
        let token = self.rest.split_off(..end)?;
        self.skip_space();
        if token.is_empty() { None } else { std::str::from_utf8(token).ok() }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
            self.skip_space();
        }
        found
    }

    fn skip_space(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }
}

/// A character of a token (RFC 9110 §5.6.2).
fn token_char(byte: u8) -> Option<char> {
    (byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)).then_some(char::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(list: &[Extension<'_>]) -> String {
        let mut text = String::new();
        for Extension { name, parameters } in list {
            text += &format!("[{name}");
            for (name, value) in parameters {
                text += &format!(
                    " {name}{}",
                    value.as_ref().map(|value| format!("={value}")).unwrap_or_default()
                );
            }
            text += "]";
        }
        text
    }

    #[test]
    fn a_line_is_a_list_of_extensions_with_parameters() {
        let rows = [
            ("", ""),
            (" , ,", ""),
            ("foo", "[foo]"),
            ("foo,bar", "[foo][bar]"),
            (",foo ,\t, bar,", "[foo][bar]"),
            ("foo;x", "[foo x]"),
            ("foo ; x = 1 ; y ;z=\"a\\b\\c\" , bar", "[foo x=1 y z=abc][bar]"),
            ("foo; x; x=2; x=\"2\"", "[foo x x=2 x=2]"),
            ("bar; baz=2, foo, foo; x=1", "[bar baz=2][foo][foo x=1]"),
            ("!#$%&'*+-.^_`|~09azAZ", "[!#$%&'*+-.^_`|~09azAZ]"),
        ];
        for (line, expected) in rows {
            let list = extensions(line.as_bytes()).unwrap_or_else(|| panic!("{line:?} was refused"));
            assert_eq!(written(&list), expected, "{line:?}");
        }
    }

    #[test]
    fn nothing_else_is_let_through() {
        let rows: [&[u8]; 23] = [
            b";",
            b"=",
            b"foo;",
            b"foo;;x",
            b"foo; ,bar",
            b"foo bar",
            b"foo;x y",
            b"foo;x=",
            b"foo;x=,bar",
            b"foo;=1",
            b"foo=1",
            b"foo;x=1=2",
            b"foo;x=\"",
            b"foo;x=\"1",
            b"foo;x=\"\"",
            b"foo;x=\"a b\"",
            b"foo;x=\"1\\",
            b"foo;x=\"1\"2",
            b"foo;x=\"\\\"\"",
            b"f\xc3\xb6\xc3\xb6",
            b"foo\x00",
            b"foo;x=(1)",
            b"foo\r\nbar",
        ];
        for line in rows {
            assert_eq!(extensions(line), None, "{}", line.escape_ascii());
        }
    }
}
