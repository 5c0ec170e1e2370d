//! The page at `/`: join a channel, see who said what and how long it took, watch the instance's counts.
//!
//! Three embedded files and the headers that keep them to themselves. It knows nothing of connections: the
//! page is one more client of `/ws` and `/instance`.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::routing::get;

/// Everything from this origin, nothing inline, no frames, no forms that leave the page. `'self'` covers
/// `ws:` and `wss:` of the same host and port (CSP level 3, section 6.7.2.8).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'";

const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page.js")),
];

/// The page's routes: `/`, `/page.css` and `/page.js`.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, content_type, body)| {
        router.route(path, get(move || async move { (headers(content_type), body) }))
    })
}

fn headers(content_type: &'static str) -> [(HeaderName, &'static str); 5] {
    [
        (CONTENT_TYPE, content_type),
        // Small, and of one version only with its neighbours: asked for anew each time, so that an
        // instance of another version never mixes with what a browser kept.
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ]
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn every_file_comes_with_its_type_and_the_policy() {
        for (path, content_type, body) in FILES {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = routes::<()>().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            assert_eq!(response.headers()[CONTENT_TYPE], content_type, "{path}");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-cache", "{path}");
            assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
            assert_eq!(response.headers()[REFERRER_POLICY], "no-referrer", "{path}");
            assert_eq!(response.headers()[CONTENT_SECURITY_POLICY], POLICY, "{path}");
            let served = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            assert_eq!(served, body.as_bytes(), "{path}");
        }
    }

    /// The browser would refuse each of these; a test says it sooner.
    #[test]
    fn nothing_is_inline_comes_from_elsewhere_or_is_parsed_as_html() {
        let refused = [
            "style=",
            "<style",
            " onclick=",
            " onload=",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "eval(",
        ];
        for (path, _, body) in FILES {
            for pattern in refused {
                assert!(!body.contains(pattern), "{path} contains {pattern:?}");
            }
            let outside = body.split(['"', '\'', '(', ' ']).find(|word| {
                (word.starts_with("http://") || word.starts_with("https://") || word.starts_with("//w"))
                    && !word.starts_with("http://www.w3.org/2000/svg")
            });
            assert_eq!(outside, None, "{path}");
        }
    }
}
