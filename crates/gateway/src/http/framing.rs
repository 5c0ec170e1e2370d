//! Whether everybody on the way to us sees a request begin, end and mean the same: an intermediary that sees another
//! request than we do can be made to hand one client's answer to another (RFC 9112 section 11.2, request smuggling).
//! hyper refuses what is malformed; this refuses what is ambiguous, and says after which request nothing more may be
//! answered on a connection. It does not look at what is asked for.

use axum::body::HttpBody;
use http::header::{HOST, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Uri, Version};

use super::rejection::Rejection;

/// Whether a connection goes on after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goes {
    /// As the request asks for.
    On,
    /// No further: what else has come may be something else to somebody on the way.
    NoFurther,
}

/// Judges a request's head.
///
/// # Errors
///
/// A request without the one `Host` that RFC 9112 section 3.2 demands, or with a target of another host.
pub fn judge<B: HttpBody>(request: &Request<B>) -> Result<Goes, Rejection> {
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Rejection::Host("it names two"));
    }
    let Some(host) = host else {
        // HTTP/1.0 knows no Host, and health checks speak it.
        return if request.version() < Version::HTTP_11 {
            Ok(Goes::NoFurther)
        } else {
            Err(Rejection::Host("it names none"))
        };
    };
    if !host.is_empty() && !is_authority(host.as_bytes()) {
        return Err(Rejection::Host("it is no host and port"));
    }
    let port = default_port(request.uri());
    let meant = request.uri().authority().map(|meant| without_port(meant.as_str().as_bytes(), port));
    if meant.is_some_and(|meant| !meant.eq_ignore_ascii_case(without_port(host.as_bytes(), port))) {
        return Err(Rejection::Host("the target is another's"));
    }
    // Chunks beside a length, which hyper has taken out by now, are the classic of its kind. Methods that have no body
    // may have one, which somebody takes for the next request. And whoever asks for an upgrade speaks something else
    // from there on, or believes so.
    let has_body = !request.body().is_end_stream();
    let takes_body = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    let last = headers.contains_key(TRANSFER_ENCODING) || headers.contains_key(UPGRADE);
    Ok(if last || has_body && !takes_body { Goes::NoFurther } else { Goes::On })
}

/// With its colon; where it stands or is left out, the same is meant (RFC 9110 section 4.2.3).
fn default_port(target: &Uri) -> &'static [u8] {
    if target.scheme() == Some(&Scheme::HTTPS) { b":443" } else { b":80" }
}

fn without_port<'a>(authority: &'a [u8], port: &[u8]) -> &'a [u8] {
    authority.strip_suffix(port).unwrap_or(authority)
}

/// Host and port, and nothing before or behind them.
fn is_authority(bytes: &[u8]) -> bool {
    Authority::try_from(bytes).is_ok_and(|authority| !authority.as_str().contains('@'))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn what_others_could_see_otherwise_is_refused_or_the_last() {
        use Goes::{NoFurther, On};
        // (method, target, header lines, whether there is a body, what becomes of it)
        type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], bool, Option<Goes>);
        let host = ("host", "a");
        let rows: &[Row] = &[
            ("GET", "/", &[host], false, Some(On)),
            ("GET", "/", &[("host", "")], false, Some(On)),
            ("GET", "/", &[("host", "[::1]:80")], false, Some(On)),
            ("POST", "/", &[host], true, Some(On)),
            ("GET", "/", &[host], true, Some(NoFurther)),
            ("DELETE", "/", &[host], true, Some(NoFurther)),
            ("POST", "/", &[host, ("transfer-encoding", "chunked")], true, Some(NoFurther)),
            ("GET", "/", &[host, ("upgrade", "h2c")], false, Some(NoFurther)),
            ("GET", "http://A/", &[host], false, Some(On)),
            ("GET", "http://b/", &[host], false, None),
            ("GET", "http://a:80/", &[host], false, Some(On)),
            ("GET", "http://a/", &[("host", "a:80")], false, Some(On)),
            ("GET", "http://[::1]:80/", &[("host", "[::1]")], false, Some(On)),
            ("GET", "https://a:443/", &[host], false, Some(On)),
            ("GET", "http://a:443/", &[host], false, None),
            ("GET", "http://a:8080/", &[host], false, None),
            ("GET", "http://a:80/", &[("host", "a:8080")], false, None),
            ("GET", "/", &[], false, None),
            ("GET", "/", &[host, host], false, None),
            ("GET", "/", &[("host", "a, b")], false, None),
            ("GET", "/", &[("host", "a/b")], false, None),
            ("GET", "/", &[("host", "b@a")], false, None),
        ];
        for (method, target, lines, has_body, expected) in rows {
            let mut request = Request::builder().method(*method).uri(*target);
            for (name, value) in *lines {
                request = request.header(*name, *value);
            }
            let body = if *has_body { Body::from("body") } else { Body::empty() };
            let judged = judge(&request.body(body).unwrap());
            assert_eq!(judged.ok(), *expected, "{method} {target} {lines:?} {has_body}");
        }
    }
}
