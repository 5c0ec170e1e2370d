//! What tokens and the back end give a client in a channel: what others are shown of it, where it begins, and what it
//! has otherwise than the channel's options say. Which tokens are refused, and how, is `centrifuge_identity`'s
//! business.

use serde_json::{Value, json};

use crate::api::result;
use crate::harness::{Caller, Client, Instance, Setup, eventually, token};

const CHANNELS: &str = "
    [namespaces.room]
    may_subscribe = \"token\"
    may_publish = \"subscriber\"
    may_read_presence = \"subscriber\"
    history_size = 5
    presence = true
    join_leave = \"force\"
    [namespaces.plain]
    may_subscribe = \"client\"
    may_publish = \"subscriber\"
    may_read_presence = \"client\"
    history_size = 5
    presence = true
    join_leave = \"allow\"
    positioning = \"allow\"
    recovery = \"allow\"
    [namespaces.forced]
    may_subscribe = \"client\"
    may_read_presence = \"client\"
    history_size = 5
    presence = true
    join_leave = \"force\"
    positioning = \"force\"
    recovery = \"force\"
    [namespaces.everybody]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    may_read_presence = \"anonymous\"
    presence = true
    join_leave = \"allow\"
    [namespaces.subscribers]
    may_subscribe = \"anonymous\"
    may_read_presence = \"subscriber\"
    presence = true
    join_leave = \"allow\"
    [namespaces.users]
    may_subscribe = \"anonymous\"
    may_read_presence = \"client\"
    presence = true
    join_leave = \"allow\"
";

/// With one worker, so that what is told and what is published come in the order in which they were.
async fn start() -> Instance {
    Setup::new(CHANNELS).tokens().api().keys("allow_anonymous = true\nworkers = 1").start().await
}

async fn user(instance: &Instance, name: &str) -> Caller {
    let token = token(&["--user", name]).await;
    Caller::connect(instance.address(), json!({ "token": token })).await
}

/// Publishes as the back end, and gives what was pushed to this client in the channel before that.
async fn pushed_before(
    instance: &Instance,
    channel: &str,
    mark: &str,
    caller: &mut Caller,
) -> Vec<(String, Value)> {
    result(instance, "publish", json!({ "channel": channel, "data": mark })).await;
    let mut pushed = Vec::new();
    loop {
        let (of, kind, event) = caller.push().await;
        if of == channel && kind == "pub" && event["data"] == mark {
            return pushed;
        }
        if of == channel {
            pushed.push((kind, event));
        }
    }
}

fn is_join_of(user: &str) -> impl Fn(&(String, Value)) -> bool {
    move |(kind, event)| kind == "join" && event["info"]["user"] == user
}

#[tokio::test]
async fn others_are_shown_what_the_last_token_and_the_back_end_say_of_a_client() {
    let instance = start().await;
    let connection = async |info: &str| token(&["--user", "ann", "--info", info]).await;
    let subscription =
        async |user: &str, info: &str| token(&["--user", user, "--channel", "room:a", "--info", info]).await;
    let mut watcher = user(&instance, "watcher").await;
    let ticket = subscription("watcher", "{}").await;
    watcher.result("subscribe", json!({ "channel": "room:a", "token": ticket })).await;
    watcher.push().await;
    let mut ann = Caller::open(instance.address()).await;
    let welcome = ann.result("connect", json!({ "token": connection(r#"{"name":"Ann"}"#).await })).await;
    let client = welcome["client"].as_str().unwrap().to_owned();
    let shown = |of_connection: Value, of_channel: Value| json!({ "user": "ann", "client": client, "conn_info": of_connection, "chan_info": of_channel });
    let ticket = subscription("ann", r#"{"role":"guest"}"#).await;
    ann.result("subscribe", json!({ "channel": "room:a", "token": ticket })).await;
    let (_, kind, event) = watcher.push().await;
    let first = shown(json!({ "name": "Ann" }), json!({ "role": "guest" }));
    assert_eq!((&*kind, &event["info"]), ("join", &first));

    let (named, other, anew) = (json!({ "name": "Ann" }), json!({ "name": "Anna" }), json!({ "name": "A." }));
    let (guest, host) = (json!({ "role": "guest" }), json!({ "role": "host" }));
    for (number, (what, of_connection, of_channel)) in [
        ("nothing", named.clone(), guest.clone()),
        ("a subscription's token", named, host.clone()),
        ("a connection's token", other, host.clone()),
        ("the back end", anew, host),
    ]
    .into_iter()
    .enumerate()
    {
        match what {
            "a subscription's token" => {
                let ticket = subscription("ann", &of_channel.to_string()).await;
                ann.result("sub_refresh", json!({ "channel": "room:a", "token": ticket })).await;
            }
            "a connection's token" => {
                let token = connection(&of_connection.to_string()).await;
                ann.result("refresh", json!({ "token": token })).await;
            }
            "the back end" => {
                result(&instance, "refresh", json!({ "user": "ann", "info": of_connection })).await;
            }
            _ => {}
        }
        let expected = shown(of_connection, of_channel);
        let present = async || {
            let to_clients = watcher.result("presence", json!({ "channel": "room:a" })).await;
            let to_back_end = result(&instance, "presence", json!({ "channel": "room:a" })).await;
            to_clients["presence"][&client] == expected && to_back_end["presence"][&client] == expected
        };
        eventually(&format!("presence says what {what} says: {expected}"), present).await;
        ann.result("publish", json!({ "channel": "room:a", "data": number })).await;
        // Nobody has come or gone for that.
        let (_, kind, event) = watcher.push().await;
        assert_eq!((&*kind, &event["data"], &event["info"]), ("pub", &json!(number), &expected), "{what}");
    }
    let kept = result(&instance, "history", json!({ "channel": "room:a", "limit": 1 })).await;
    assert_eq!(kept["publications"][0]["info"], first, "what was said keeps who has said it");
}

#[tokio::test]
async fn the_back_end_says_where_a_subscription_begins_and_what_comes_with_it() {
    let instance = start().await;
    let (mut ann, mut watcher) = (user(&instance, "ann").await, user(&instance, "watcher").await);
    // (from where on, whether in the history's epoch, where it is said to be, what comes)
    for (since, is_ours, offset, missed) in [
        (Some(1), true, 1, &[2, 3][..]),
        (Some(3), true, 3, &[]),
        (Some(1), false, 3, &[]),
        (None, true, 0, &[]),
    ] {
        let channel = format!("plain:{since:?}-{is_ours}");
        watcher.result("subscribe", json!({ "channel": channel })).await;
        let mut wish = json!({
            "user": "ann", "channel": channel, "info": { "by": "back end" }, "data": { "hello": "ann" },
        });
        for n in 1..=3 {
            let at = result(&instance, "publish", json!({ "channel": channel, "data": n })).await;
            let epoch = if is_ours { at["epoch"].clone() } else { json!("other") };
            wish["recover_since"] =
                since.map_or(json!(null), |since| json!({ "offset": since, "epoch": epoch }));
        }
        result(&instance, "subscribe", wish).await;
        let (of, kind, event) = ann.push().await;
        assert_eq!((&of, &*kind, &event["data"]), (&channel, "subscribe", &json!({ "hello": "ann" })));
        let place = (event["offset"].as_u64().unwrap_or(0), event["recoverable"] == true);
        assert_eq!(place, (offset, since.is_some()), "{channel}: {event}");
        for number in missed {
            let (_, kind, event) = ann.push().await;
            let said = (&event["data"], &event["offset"]);
            assert_eq!((&*kind, said), ("pub", (&json!(number), &json!(number))), "{channel}");
        }
        assert_eq!(pushed_before(&instance, &channel, "now", &mut ann).await, [], "{channel}: nothing else");
        ann.result("publish", json!({ "channel": channel, "data": "mine" })).await;
        let info = loop {
            let (of, _, mut event) = watcher.push().await;
            if of == channel && event["data"] == "mine" {
                break event["info"].take();
            }
        };
        assert_eq!((&info["user"], &info["chan_info"]), (&json!("ann"), &json!({ "by": "back end" })));
        ann.push().await;
    }
}

/// By whom somebody is subscribed.
#[derive(Debug, Clone, Copy)]
enum By {
    BackEnd,
    SubscriptionToken,
    ConnectionToken,
}

#[tokio::test]
async fn a_subscription_has_what_its_grant_has_otherwise_than_the_channel() {
    let instance = start().await;
    let (mut watcher, mut other) = (user(&instance, "watcher").await, user(&instance, "other").await);
    let is = |value: bool| json!({ "value": value });
    let everything = "present told hears positioned recovers";
    let rows = [
        ("plain", json!({}), "present told"),
        ("plain", json!({ "presence": is(false) }), ""),
        ("plain", json!({ "join_leave": is(false) }), "present"),
        ("plain", json!({ "force_push_join_leave": is(true) }), "present told hears"),
        ("plain", json!({ "force_positioning": is(true) }), "present told positioned"),
        ("plain", json!({ "force_recovery": is(true) }), "present told positioned recovers"),
        ("forced", json!({}), everything),
        ("forced", json!({ "force_push_join_leave": is(false) }), "present told positioned recovers"),
        ("forced", json!({ "force_recovery": is(false) }), "present told hears positioned"),
        (
            "forced",
            json!({ "force_recovery": is(false), "force_positioning": is(false) }),
            "present told hears",
        ),
    ];
    for (number, (namespace, overrides, expected)) in rows.iter().enumerate() {
        for by in [By::BackEnd, By::SubscriptionToken, By::ConnectionToken] {
            let channel = format!("{namespace}:{number}-{by:?}");
            watcher.result("subscribe", json!({ "channel": channel, "join_leave": true })).await;
            let (mut ann, subscribed) = subscribed(&instance, by, &channel, overrides).await;
            let present = result(&instance, "presence", json!({ "channel": channel })).await;
            let present = present["presence"].as_object().unwrap().values().any(|who| who["user"] == "ann");
            let heard = pushed_before(&instance, &channel, "one", &mut watcher).await;
            other.result("subscribe", json!({ "channel": channel })).await;
            let hears = pushed_before(&instance, &channel, "two", &mut ann).await;
            let has = [
                (present, "present"),
                (heard.iter().any(is_join_of("ann")), "told"),
                (hears.iter().any(is_join_of("other")), "hears"),
                (subscribed["positioned"] == true, "positioned"),
                (subscribed["recoverable"] == true, "recovers"),
            ];
            let has: Vec<_> = has.iter().filter(|(has, _)| *has).map(|(_, what)| *what).collect();
            assert_eq!(has.join(" "), *expected, "{channel} with {overrides}");
            ann.leave().await;
        }
    }
}

/// Somebody who is subscribed with these overrides, and what is said of the subscription.
async fn subscribed(instance: &Instance, by: By, channel: &str, overrides: &Value) -> (Caller, Value) {
    let claim = format!("override={overrides}");
    match by {
        By::BackEnd => {
            let mut ann = user(instance, "ann").await;
            let wish = json!({ "user": "ann", "channel": channel, "override": overrides });
            result(instance, "subscribe", wish).await;
            let (_, kind, event) = ann.push().await;
            assert_eq!(kind, "subscribe");
            (ann, event)
        }
        By::SubscriptionToken => {
            let mut ann = user(instance, "ann").await;
            let token = token(&["--user", "ann", "--channel", channel, "--claim", &claim]).await;
            let subscribed = ann.result("subscribe", json!({ "channel": channel, "token": token })).await;
            (ann, subscribed)
        }
        By::ConnectionToken => {
            let subs = format!("subs={}", json!({ channel: { "override": overrides } }));
            let token = token(&["--user", "ann", "--claim", &subs]).await;
            let mut ann = Caller::open(instance.address()).await;
            let mut welcome = ann.result("connect", json!({ "token": token })).await;
            (ann, welcome["subs"][channel].take())
        }
    }
}

/// The server has made it, and nobody else can: what the back end has taken back stays so until the client is back.
#[tokio::test]
async fn a_connection_token_subscribes_when_its_client_connects_and_not_again() {
    let instance = start().await;
    let connection = token(&["--user", "ann", "--claim", "channels=[\"room:a\"]"]).await;
    let subscription = token(&["--user", "ann", "--channel", "room:a"]).await;
    let connected = async || {
        let mut ann = Caller::open(instance.address()).await;
        let welcome = ann.result("connect", json!({ "token": connection })).await;
        assert!(welcome["subs"]["room:a"].is_object(), "{welcome}");
        ann
    };
    for by_back_end in [false, true] {
        let mut ann = connected().await;
        if by_back_end {
            result(&instance, "unsubscribe", json!({ "user": "ann", "channel": "room:a" })).await;
            while ann.push().await.1 != "unsubscribe" {}
        } else {
            ann.result("unsubscribe", json!({ "channel": "room:a" })).await;
        }
        let asked = json!({ "channel": "room:a", "token": connection });
        for asked in [json!({ "channel": "room:a" }), asked] {
            assert_eq!(ann.error("subscribe", asked).await, 103);
        }
        ann.result("subscribe", json!({ "channel": "room:a", "token": subscription })).await;
        // Its own subscription is not the one that a token is to have made.
        let refreshed = ann.try_call("refresh", json!({ "token": connection })).await;
        assert_eq!(refreshed.map_err(|closed| closed.0), Err(3010));
        connected().await.leave().await;
    }
    let raw = format!("{}?token={connection}", instance.url("room:a"));
    assert!(Client::try_connect(&raw, &[]).await.is_ok(), "there it is shown for this one channel");
}

#[tokio::test]
async fn who_asks_who_comes_and_goes_is_told_if_it_may_see_who_is_there() {
    let instance = start().await;
    let mut other = user(&instance, "other").await;
    for (namespace, by_name, asks, hears) in [
        ("everybody", false, true, true),
        ("subscribers", false, true, true),
        ("users", false, true, false),
        ("users", true, true, true),
        ("users", true, false, false),
        ("everybody", false, false, false),
    ] {
        let channel = format!("{namespace}:{by_name}-{asks}");
        let mut caller = match by_name {
            true => user(&instance, "ann").await,
            false => Caller::anonymous(instance.address()).await,
        };
        caller.result("subscribe", json!({ "channel": channel, "join_leave": asks })).await;
        other.result("subscribe", json!({ "channel": channel })).await;
        let heard = pushed_before(&instance, &channel, "then", &mut caller).await;
        assert_eq!(heard.iter().any(is_join_of("other")), hears, "{channel}: {heard:?}");
    }
}

/// What is shown of a client goes to others beside its words: what is more together than an outbox holds is refused,
/// and cuts nobody.
#[tokio::test]
async fn what_is_shown_of_a_client_cuts_nobody() {
    const OUTBOX: usize = 64 << 10;
    let setup = Setup::new(CHANNELS).tokens().api().keys("allow_anonymous = true\nworkers = 1");
    let instance = setup.flags(&["--outbox-limit", "64KiB", "--message-limit", "65526"]).start().await;
    let mut ann = user(&instance, "ann").await;
    let mut listeners = vec![user(&instance, "watcher").await, Caller::anonymous(instance.address()).await];
    for listener in &mut listeners {
        listener.result("subscribe", json!({ "channel": "everybody:a", "join_leave": true })).await;
    }
    let mut raw = Client::connect(instance.url("everybody:a")).await;
    let largest = "i".repeat((OUTBOX - 10) / 4 - 2);
    for channel in ["everybody:a", "everybody:data"] {
        let data = if channel == "everybody:a" { json!(1) } else { json!("d".repeat(OUTBOX - 10 - 2)) };
        let wish = json!({ "user": "ann", "channel": channel, "info": largest, "data": data });
        result(&instance, "subscribe", wish).await;
        let (_, kind, event) = ann.push().await;
        assert_eq!((&*kind, &event["data"]), ("subscribe", &data));
    }
    result(&instance, "refresh", json!({ "user": "ann", "info": largest })).await;
    assert_eq!(ann.push().await.1, "refresh");
    let shown = 2 * (largest.len() + 2);
    for (data, code) in [(OUTBOX - 10 - shown - 2, None), (OUTBOX - 10 - shown - 1, Some(107))] {
        let publish = json!({ "channel": "everybody:a", "data": "d".repeat(data) });
        let answer = ann.call("publish", publish).await;
        assert_eq!(answer["error"]["code"].as_u64(), code, "{data}");
    }
    for listener in &mut listeners {
        while listener.push().await.1 != "pub" {}
        assert_eq!(listener.error("rpc", json!({})).await, 108, "it is still there");
    }
    raw.next().await;
    assert_eq!(instance.metric("fanfare_slow_consumers_total", &[]).await, 0.0);
}
