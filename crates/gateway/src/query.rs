//! A request's query, taken apart as forms of browsers are put together (WHATWG URL,
//! `application/x-www-form-urlencoded`): a `+` is a space, and what is escaped is text. What keys there are, and what
//! they mean, is for whoever asks.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Its keys and values in their order; a key that stands alone has none.
pub fn pairs(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Option<Cow<'_, str>>)> {
    query.unwrap_or_default().split('&').map(|pair| match pair.split_once('=') {
        Some((key, value)) => (decoded(key), Some(decoded(value))),
        None => (decoded(pair), None),
    })
}

/// The first value of a key.
pub fn value<'q>(query: Option<&'q str>, wanted: &str) -> Option<Cow<'q, str>> {
    pairs(query).find_map(|(key, value)| value.filter(|_| key == wanted))
}

/// What is not UTF-8 becomes U+FFFD, which nothing that is asked for has in it.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8_lossy();
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_what_a_form_says() {
        type Row<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);
        let rows: &[Row] = &[
            ("", &[("", None)]),
            ("since", &[("since", None)]),
            ("since=", &[("since", Some(""))]),
            ("a=b=c&a=2", &[("a", Some("b=c")), ("a", Some("2"))]),
            ("t=a+b%2Bc%20d&%74=%c3%bc", &[("t", Some("a b+c d")), ("t", Some("ü"))]),
            ("bad=%ff%zz%", &[("bad", Some("\u{fffd}%zz%"))]),
        ];
        for (query, expected) in rows {
            let found: Vec<_> = pairs(Some(query)).collect();
            let expected: Vec<_> =
                expected.iter().map(|(key, value)| (Cow::from(*key), value.map(Cow::from))).collect();
            assert_eq!(found, expected, "{query}");
        }
        for (query, found) in [(None, None), (Some("a&b=1"), None), (Some("a&a=1&a=2"), Some("1"))] {
            assert_eq!(value(query, "a").as_deref(), found, "{query:?}");
        }
    }
}
