//! Clients of the Centrifuge protocol that stop reading, in channels that close for them, drop the oldest or keep the
//! latest: what they are told, what they get in the end, and that nobody else notices. Raw clients are `limits`'
//! business.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Caller, Instance, Remote, Setup, token};

const SIZE: usize = 16 * 1024;
const OUTBOX: usize = 256 * 1024;

/// Nobody is pinged: whoever does not read would be closed for that.
const CHANNELS: &str = "
    outbox_limit = \"256KiB\"
    message_limit = \"64KiB\"
    client_ping_interval = \"1h\"
    allow_anonymous = true
    [channels]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    [namespaces.close]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    history_size = 10000
    recovery = \"allow\"
    [namespaces.oldest]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    slow_consumers = \"drop_oldest\"
    presence = true
    join_leave = \"force\"
    [namespaces.latest]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    slow_consumers = \"keep_latest\"
    presence = true
    join_leave = \"force\"
";

/// Whoever does not read, on a socket or in a body.
enum Slow {
    Socket(Caller),
    Body(Remote),
}

impl Slow {
    const WAYS: [&str; 3] = ["/connection/websocket", "/connection/sse", "/connection/http_stream"];

    async fn connect(instance: &Instance, way: &str) -> Self {
        match way {
            "/connection/websocket" => Self::Socket(Caller::narrow(instance.address()).await),
            way => Self::Body(Remote::connect(instance.address(), way, json!({})).await),
        }
    }

    async fn result(&mut self, method: &str, request: Value) -> Value {
        match self {
            Self::Socket(caller) => caller.result(method, request).await,
            Self::Body(remote) => remote.result(method, request).await,
        }
    }

    /// Says something without reading anything.
    async fn say(&mut self, words: &str) {
        match self {
            Self::Socket(caller) => caller.say(words).await,
            Self::Body(remote) => assert_eq!(remote.say(words).await, 204),
        }
    }

    /// The next message, or the code with which it is closed.
    async fn message(&mut self) -> Result<Value, u64> {
        match self {
            Self::Socket(caller) => caller.message().await.map_err(|(code, _)| code.into()),
            Self::Body(remote) => {
                let message = remote.message().await.expect("it is told why it ends");
                message["push"]["disconnect"]["code"].as_u64().map_or(Ok(message), Err)
            }
        }
    }
}

/// Those who must not notice anything: one in the same channel, and one elsewhere.
struct Others {
    speaker: Caller,
    listener: Caller,
    channel: String,
    said: u64,
    slowest: Duration,
}

impl Others {
    async fn new(instance: &Instance, channel: &str) -> Self {
        let mut listener = Caller::anonymous(instance.address()).await;
        for channel in [channel, "elsewhere"] {
            listener.result("subscribe", json!({ "channel": channel })).await;
        }
        let speaker = Caller::anonymous(instance.address()).await;
        Self { speaker, listener, channel: channel.to_owned(), said: 0, slowest: Duration::ZERO }
    }

    /// The next number, which is heard at once.
    async fn speak(&mut self) {
        let start = Instant::now();
        for channel in [&*self.channel, "elsewhere"] {
            let data = json!({ "number": self.said, "text": "x".repeat(SIZE) });
            self.speaker.result("publish", json!({ "channel": channel, "data": data })).await;
            assert_eq!(self.listener.publication().await["number"], self.said, "{channel}");
        }
        self.slowest = self.slowest.max(start.elapsed());
        self.said += 1;
        assert!(self.said < 4000, "whoever does not read is never found slow");
    }

    fn noticed_nothing(&self) {
        assert!(self.slowest < Duration::from_secs(5), "others waited for {:?}", self.slowest);
    }
}

async fn waiting(instance: &Instance) -> f64 {
    instance.metric("fanfare_outbox_bytes", &[]).await
}

#[tokio::test]
async fn a_slow_client_is_closed_and_recovers_what_it_missed() {
    let instance = Setup::new(CHANNELS).tokens().flags(&["--workers", "1"]).start().await;
    for (turn, way) in Slow::WAYS.into_iter().enumerate() {
        let channel = format!("close:{turn}");
        let mut slow = Slow::connect(&instance, way).await;
        let wish = json!({ "channel": channel, "recoverable": true });
        let epoch = slow.result("subscribe", wish).await["epoch"].clone();
        let mut others = Others::new(&instance, &channel).await;
        while instance.metric("fanfare_slow_consumers_total", &[]).await < (turn + 1) as f64 {
            others.speak().await;
            assert!(waiting(&instance).await <= OUTBOX as f64, "{way}");
        }
        others.noticed_nothing();
        // What was on its way is whole and in order, and then it is told why it ends, and may come back.
        let mut seen = 0;
        let code = loop {
            match slow.message().await {
                Ok(message) => {
                    let publication = &message["push"]["pub"];
                    assert_eq!(publication["data"]["number"], seen, "{way}");
                    seen += 1;
                    assert_eq!(publication["offset"], seen, "{way}");
                }
                Err(code) => break code,
            }
        };
        assert_eq!(code, 3008, "{way}");
        assert!(seen < others.said, "{way}: nothing was missed");
        // It has missed more than its outbox holds, and gets it all the same, and what comes behind it.
        let mut slow = Slow::connect(&instance, way).await;
        let wish = json!({ "channel": channel, "recover": true, "offset": seen, "epoch": epoch });
        let result = slow.result("subscribe", wish).await;
        assert_eq!(result["recovered"], true, "{way}");
        let missed = result["publications"].as_array().unwrap();
        let numbers: Vec<_> = missed.iter().map(|one| one["data"]["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (seen..others.said).collect::<Vec<_>>(), "{way}");
        assert!(numbers.len() * SIZE >= OUTBOX, "{way}: {numbers:?}");
        others.speak().await;
        assert_eq!(slow.message().await.unwrap()["push"]["pub"]["data"]["number"], others.said - 1, "{way}");
    }
}

#[tokio::test]
async fn a_slow_client_is_left_out_where_its_channel_says_so() {
    let instance = Setup::new(CHANNELS).tokens().flags(&["--workers", "1"]).start().await;
    let guest = json!({ "token": token(&["--user", "guest"]).await });
    let dropped = async || instance.metric("fanfare_publications_dropped_total", &[]).await;
    for (namespace, way) in ["oldest", "latest"].iter().flat_map(|name| Slow::WAYS.map(|way| (*name, way))) {
        let case = format!("{namespace}, {way}");
        let channel = format!("{namespace}:{}", way.len());
        let mut slow = Slow::connect(&instance, way).await;
        slow.result("subscribe", json!({ "channel": channel })).await;
        let mut others = Others::new(&instance, &channel).await;
        let before = dropped().await;
        let mut id = 1000;
        while dropped().await - before < 100.0 {
            others.speak().await;
            // What it asks for is answered, and who comes and goes is told, however full its outbox is.
            if others.said % 10 == 0 {
                slow.say(&json!({ "id": id, "rpc": {} }).to_string()).await;
                let mut guest = Caller::connect(instance.address(), guest.clone()).await;
                guest.result("subscribe", json!({ "channel": channel })).await;
                guest.result("unsubscribe", json!({ "channel": channel })).await;
                id += 1;
            }
            assert!(waiting(&instance).await <= OUTBOX as f64, "{case}");
        }
        // The last word is the last publication's, whoever comes behind it.
        others.speak().await;
        let mut guest = Caller::connect(instance.address(), guest.clone()).await;
        guest.result("subscribe", json!({ "channel": channel })).await;
        others.noticed_nothing();
        let (mut numbers, mut answers, mut guests) = (Vec::new(), Vec::new(), (0, 0));
        while guests.0 < id - 1000 + 1 || answers.len() < id - 1000 {
            let message = slow.message().await.unwrap_or_else(|code| panic!("{case}: closed with {code}"));
            let push = &message["push"];
            if let Some(publication) = push.get("pub") {
                numbers.push(publication["data"]["number"].as_u64().unwrap());
            } else if let Some(join) = push.get("join") {
                guests.0 += usize::from(join["info"]["user"] == "guest");
            } else if push.get("leave").is_some() {
                guests.1 += 1;
            } else {
                assert_eq!(message["error"]["code"], 108, "{case}: {message}");
                answers.push(message["id"].as_u64().unwrap() as usize);
            }
        }
        assert_eq!(answers, (1000..id).collect::<Vec<_>>(), "{case}");
        assert_eq!(guests.1, id - 1000, "{case}");
        assert!(numbers.is_sorted_by(|one, next| one < next), "{case}: {numbers:?}");
        assert_eq!(numbers.last(), Some(&(others.said - 1)), "{case}");
        let missed = (dropped().await - before) as usize;
        assert_eq!(numbers.len() + missed, others.said as usize, "{case}: each is delivered or counted");
        let all: BTreeSet<_> = numbers.iter().copied().collect();
        let at_the_end = (0..others.said).rev().take_while(|number| all.contains(number)).count();
        assert_eq!(at_the_end == 1, namespace == "latest", "{case}: {numbers:?}");
        others.speak().await;
        let next = slow.message().await.unwrap();
        assert_eq!(next["push"]["pub"]["data"]["number"], others.said - 1, "{case}: it goes on");
    }
    assert_eq!(instance.metric("fanfare_slow_consumers_total", &[]).await, 0.0);
}

/// Each as much as an outbox holds.
#[tokio::test]
async fn a_slow_client_gets_what_it_missed_in_many_channels() {
    const MISSED: u64 = 20;
    let instance = Setup::new(CHANNELS).tokens().flags(&["--workers", "1"]).start().await;
    let mut speaker = Caller::anonymous(instance.address()).await;
    let mut asked = Vec::new();
    for n in 0..6 {
        let channel = format!("close:{n}");
        let place = speaker.result("subscribe", json!({ "channel": channel, "recoverable": true })).await;
        speaker.result("unsubscribe", json!({ "channel": channel })).await;
        for number in 0..MISSED {
            let data = json!({ "number": number, "text": "x".repeat(SIZE) });
            speaker.result("publish", json!({ "channel": channel, "data": data })).await;
        }
        let wish = json!({ "channel": channel, "recover": true, "offset": 0, "epoch": place["epoch"] });
        asked.push(json!({ "id": 1000 + n, "subscribe": wish }).to_string());
    }
    let mut slow = Caller::narrow(instance.address()).await;
    slow.say(&asked.join("\n")).await;
    for n in 0..6 {
        let answer = slow.message().await.unwrap_or_else(|closed| panic!("{n}: closed with {closed:?}"));
        assert_eq!((&answer["id"], &answer["subscribe"]["recovered"]), (&json!(1000 + n), &json!(true)));
        let missed = answer["subscribe"]["publications"].as_array().unwrap();
        let numbers: Vec<_> = missed.iter().map(|one| one["data"]["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..MISSED).collect::<Vec<_>>(), "{n}");
    }
}
