//! The OpenAPI document, made of the table of methods, so that it says what the methods take and give.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::methods::Method;
use super::reply::named;
use super::shape::{Field, Shape, object};

/// Version 3.1, in JSON.
pub fn document() -> Value {
    let paths: Map<String, Value> =
        Method::ALL.iter().map(|method| (format!("/api/{}", method.name()), path(*method))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Fanfare HTTP API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a back end can do: publish, look, and tell clients what to do. \
                Errors stand in a response with status 200, under `error`; with `X-Centrifugo-Error-Mode: transport` they have a \
                status and are the body. Fields that a method does not know are passed over.",
        },
        "security": [{ "header": [] }, { "authorization": [] }, { "query": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "header": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
                "authorization": {
                    "type": "apiKey", "in": "header", "name": "Authorization", "description": "`apikey`, a space, and the key",
                },
                "query": { "type": "apiKey", "in": "query", "name": "api_key" },
            },
            "parameters": {
                "ErrorMode": {
                    "name": "X-Centrifugo-Error-Mode",
                    "in": "header",
                    "description": "Where errors stand; not set, as `api_error_mode` says",
                    "schema": { "type": "string", "enum": ["response", "transport"] },
                },
            },
            "schemas": { "Error": ApiError::shape() },
            "responses": {
                "Failed": {
                    "description": "What was wrong",
                    "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
                },
                "Unauthorized": { "description": "There is no key, or a wrong one" },
            },
        },
    })
}

fn path(method: Method) -> Value {
    let failed = json!({ "$ref": "#/components/responses/Failed" });
    json!({
        "post": {
            "operationId": method.name(),
            "summary": method.about(),
            "parameters": [{ "$ref": "#/components/parameters/ErrorMode" }],
            "requestBody": {
                "required": true,
                "content": { "application/json": { "schema": method.request() } },
            },
            "responses": {
                "200": {
                    "description": "The result, or, where errors stand in the response, an error",
                    "content": { "application/json": { "schema": answer(method) } },
                },
                "400": failed,
                "401": { "$ref": "#/components/responses/Unauthorized" },
                "404": failed,
                "408": failed,
                "413": failed,
                "416": failed,
                "500": failed,
            },
        },
    })
}

fn answer(method: Method) -> Value {
    if method.is_bare() {
        let error = object([Field {
            name: "error",
            says: "What was wrong",
            is_needed: true,
            shape: ApiError::shape(),
        }]);
        return json!({ "oneOf": [method.result(), error] });
    }
    named([("result", method.result()), ("error", ApiError::shape())])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What Centrifugo's server API names for each method. What we add to it is behind the bar.
    const SPECIFIED: &[(&str, &str, &str)] = &[
        (
            "publish",
            "channel data b64data skip_history tags idempotency_key delta version version_epoch",
            "offset epoch",
        ),
        (
            "broadcast",
            "channels data b64data skip_history tags idempotency_key delta version version_epoch",
            "responses",
        ),
        (
            "subscribe",
            "user channel expire_at info b64info client session data b64data recover_since override",
            "",
        ),
        ("unsubscribe", "user channel client session", ""),
        ("disconnect", "user client session whitelist disconnect", ""),
        ("refresh", "user client session expired expire_at info", ""),
        ("presence", "channel | limit cursor", "presence | next"),
        ("presence_stats", "channel", "num_clients num_users"),
        ("history", "channel limit since reverse", "publications offset epoch"),
        ("history_remove", "channel", ""),
        ("channels", "pattern | limit cursor", "channels | next"),
        ("info", "", "nodes"),
        ("batch", "commands parallel", "replies"),
        ("rpc", "method params", "data"),
    ];

    fn names(schema: &Value) -> BTreeSet<&str> {
        let properties = schema["properties"].as_object().expect("it is an object's schema");
        properties.keys().map(String::as_str).collect()
    }

    #[test]
    fn methods_and_document_are_those_that_client_libraries_know() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), SPECIFIED.len());
        for (name, request, result) in SPECIFIED {
            let method = Method::named(name).unwrap_or_else(|| panic!("there is no method {name}"));
            let post = &paths[&format!("/api/{name}")]["post"];
            let schema = &post["requestBody"]["content"]["application/json"]["schema"];
            let words =
                |text: &'static str| text.split(' ').filter(|word| !["", "|"].contains(word)).collect();
            assert_eq!(names(schema), words(request), "{name}");
            assert_eq!(*schema, method.request(), "{name}");
            assert_eq!(names(&method.result()), words(result), "{name}");
            for (field, schema) in schema["properties"].as_object().unwrap() {
                assert!(schema["description"].as_str().is_some_and(|says| says.len() > 3), "{name} {field}");
            }
        }
    }
}
