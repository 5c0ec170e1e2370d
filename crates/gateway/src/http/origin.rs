//! From which pages a handshake may come. Of programs, which say no origin, nothing is asked here.

use http::HeaderMap;
use http::HeaderName;
use http::header::{HOST, ORIGIN};

use crate::config::Config;

/// Whether a page of this origin may ask, or it is no page that asks.
pub fn admits(config: &Config, headers: &HeaderMap) -> bool {
    config.allowed_origins.allows(text(headers, &ORIGIN), text(headers, &HOST))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    // A value that is no text, or one of two, matches nothing, rather than being as good as none or as the other.
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    Some(value.to_str().ok().filter(|_| values.next().is_none()).unwrap_or("\u{fffd}"))
}
