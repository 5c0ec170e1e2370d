//! Whatever clients and the back end say, in whatever order, however clients go, and while connections to Redis break:
//! nothing of it stays, and who sits beside them misses nothing. What each command is answered is the other modules'
//! business.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::api::call;
use crate::harness::{Caller, Client, EventStream, Instance, RedisServer, Remote, Setup, eventually, token};
use crate::hostile::is_as_before;

/// Each way in which a channel can be, and nothing that is closed to all.
const OPTIONS: &str = "
    allow_anonymous = true
    personal_channel = \"#\"
    max_connections_per_user = 12
    [channels]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    may_read_presence = \"anonymous\"
    presence = true
    join_leave = \"allow\"
    user_limited = true
    [namespaces.kept]
    may_subscribe = \"anonymous\"
    may_publish = \"anonymous\"
    may_read_history = \"anonymous\"
    may_read_presence = \"subscriber\"
    history_size = 20
    history_ttl = \"2s\"
    positioning = \"allow\"
    recovery = \"allow\"
    presence = true
    join_leave = \"force\"
    delta = true
    [namespaces.latest]
    may_subscribe = \"client\"
    may_publish = \"subscriber\"
    slow_consumers = \"keep_latest\"
    [namespaces.quiet]
    may_subscribe = \"anonymous\"
    history_size = 10000
    recovery = \"force\"
";
const CHANNELS: [&str; 9] =
    ["a", "b", "team#ann,bob", "#ann", "$door", "kept:a", "kept:b", "latest:a", "nowhere:a"];
const USERS: [&str; 3] = ["ann", "bob", ""];

const SESSIONS: u64 = 1000;
const AT_A_TIME: usize = 40;

#[tokio::test]
async fn whatever_is_said_nothing_of_it_stays() {
    let redis = RedisServer::start().await;
    let setup = Setup::new(OPTIONS).tokens().api().redis(&redis.url());
    let instances = [setup.start().await, setup.start().await];
    let tokens = tokens().await;
    let mut bystanders = Vec::new();
    for instance in &instances {
        let mut bystander = Caller::anonymous(instance.address()).await;
        bystander.result("subscribe", json!({ "channel": "quiet:a" })).await;
        bystanders.push(bystander);
    }
    let before = [instances[0].metrics().await, instances[1].metrics().await];

    let over = AtomicBool::new(false);
    let sessions = async {
        let session = |seed| Person { random: Rng::with_seed(seed), tokens: &tokens }.live(&instances);
        stream::iter(0..SESSIONS).map(session).buffer_unordered(AT_A_TIME).collect::<()>().await;
        over.store(true, Ordering::Relaxed);
    };
    let publisher = async {
        let mut random = Rng::with_seed(SESSIONS);
        let mut said = 0;
        while !over.load(Ordering::Relaxed) {
            said += 1;
            if said % 5 == 0 {
                redis.cli(&["CLIENT", "KILL", "TYPE", random.choice(["normal", "pubsub"]).unwrap()]).await;
            }
            // Again, if that broke it.
            let key = said.to_string();
            let request = json!({ "channel": "quiet:a", "data": said, "idempotency_key": key });
            while call(random.choice(&instances).unwrap(), "publish", request.clone()).await["result"]
                .is_null()
            {}
        }
        said
    };
    let ((), said) = tokio::join!(sessions, publisher);

    for bystander in &mut bystanders {
        for number in 1..=said {
            assert_eq!(bystander.publication().await, number);
        }
    }
    for (instance, before) in instances.iter().zip(&before) {
        is_as_before("what was said", instance, before).await;
    }
    for channel in CHANNELS.into_iter().filter(|channel| *channel != "nowhere:a") {
        let stats = json!({ "num_clients": 0, "num_users": 0 });
        let is_empty = async || {
            let answer = call(&instances[0], "presence_stats", json!({ "channel": channel })).await;
            answer["result"] == stats || answer["error"]["code"] == 108
        };
        eventually(&format!("nobody is in {channel}"), is_empty).await;
    }
}

/// Some that are good, some for a moment, and some that are not.
async fn tokens() -> Vec<String> {
    let mut tokens = vec!["nonsense".to_owned()];
    for user in USERS {
        tokens.push(token(&["--user", user]).await);
        tokens.push(token(&["--user", user, "--expires-in", "1s"]).await);
        tokens.push(token(&["--user", user, "--claim", "channels=[\"a\",\"kept:a\",\"$door\"]"]).await);
        tokens.push(token(&["--user", user, "--channel", "$door", "--info", "{\"seat\":1}"]).await);
        let shown = "override={\"join_leave\":{\"value\":true}}";
        tokens.push(token(&["--user", user, "--channel", "latest:a", "--claim", shown]).await);
    }
    tokens
}

/// Somebody who says what comes to its mind.
struct Person<'a> {
    random: Rng,
    tokens: &'a [String],
}

impl Person<'_> {
    /// One connection, of any kind, to any of these, or the back end for a moment.
    async fn live(mut self, instances: &[Instance; 2]) {
        let instance = &instances[self.random.usize(..2)];
        let address = instance.address();
        match self.random.u8(..10) {
            0..=3 => self.on_a_websocket(address).await,
            4..=5 => self.by_requests(address, instances[0].address()).await,
            6 => self.only_listening(address).await,
            7 => self.without_a_protocol(address).await,
            _ => self.as_the_back_end(instance).await,
        }
    }

    async fn on_a_websocket(&mut self, address: SocketAddr) {
        let mut caller = Caller::open(address).await;
        if caller.try_call("connect", self.introduction()).await.is_err() {
            return;
        }
        for _ in 0..self.random.usize(..50) {
            let (method, request) = self.command();
            if self.random.bool() {
                caller.ask(method, request).await;
            } else if caller.try_call(method, request).await.is_err() {
                return;
            }
        }
        if self.random.bool() {
            caller.leave().await;
        }
    }

    async fn by_requests(&mut self, address: SocketAddr, uplink: SocketAddr) {
        let path = Remote::PATHS[self.random.usize(..2)];
        let words = json!({ "id": 1, "connect": self.introduction() }).to_string();
        let Ok(mut remote) = Remote::open(address, path, &words).await else { return };
        let Some(answer) = remote.message().await.filter(|answer| answer["connect"].is_object()) else {
            return;
        };
        remote.remember(&answer);
        remote.uplink = uplink;
        for id in 2..self.random.u32(2..20) {
            let (method, request) = self.command();
            remote.say(&json!({ "id": id, method: request }).to_string()).await;
        }
    }

    async fn only_listening(&mut self, address: SocketAddr) {
        let mut caller = Caller::open_at(address, "/connection/uni_websocket", &[]).await;
        caller.say(&self.introduction().to_string()).await;
        let _ = caller.message().await;
    }

    async fn without_a_protocol(&mut self, address: SocketAddr) {
        let channel = self.channel().replace('#', "%23");
        let query = format!("since={}&token={}", self.random.u8(..20), self.token());
        if self.random.bool() {
            let _ = EventStream::try_connect(address, &format!("/sse/{channel}?{query}"), &[]).await;
        } else if let Ok(mut client) =
            Client::try_connect(&format!("ws://{address}/ws/{channel}?{query}"), &[]).await
        {
            for _ in 0..self.random.u8(..5) {
                client.try_send("{}").await;
            }
        }
    }

    async fn as_the_back_end(&mut self, instance: &Instance) {
        let channel = self.channel();
        let user = *self.random.choice(&USERS[..2]).unwrap();
        let (method, request) = match self.random.u8(..7) {
            0 => ("publish", json!({ "channel": channel, "data": {}, "idempotency_key": user })),
            1 => ("subscribe", json!({ "channel": channel, "user": user, "recover_since": { "offset": 1 } })),
            2 => ("unsubscribe", json!({ "channel": channel, "user": user })),
            3 => ("disconnect", json!({ "user": user })),
            4 => ("refresh", json!({ "user": user, "expired": self.random.bool() })),
            5 => ("history_remove", json!({ "channel": channel })),
            _ => ("presence", json!({ "channel": channel })),
        };
        call(instance, method, request).await;
    }

    fn channel(&mut self) -> &'static str {
        self.random.choice(&CHANNELS).unwrap()
    }

    fn token(&mut self) -> &str {
        self.random.choice(self.tokens).unwrap()
    }

    /// What it says of itself when it comes.
    fn introduction(&mut self) -> Value {
        let mut request = json!({});
        if self.random.u8(..4) > 0 {
            request["token"] = self.token().into();
        }
        for _ in 0..self.random.u8(..3) {
            let channel = self.channel();
            request["subs"][channel] = self.subscription(channel);
        }
        request
    }

    fn subscription(&mut self, channel: &str) -> Value {
        let mut request = json!({ "channel": channel });
        for wanted in ["positioned", "recoverable", "join_leave", "recover"] {
            request[wanted] = self.random.bool().into();
        }
        if self.random.bool() {
            request["offset"] = self.random.u8(..30).into();
        }
        if self.random.bool() {
            request["delta"] = "fossil".into();
        }
        if self.random.u8(..4) == 0 {
            request["token"] = self.token().into();
        }
        request
    }

    fn command(&mut self) -> (&'static str, Value) {
        let channel = self.channel();
        let plain = json!({ "channel": channel });
        match self.random.u8(..16) {
            0..=3 => ("subscribe", self.subscription(channel)),
            4..=5 => ("unsubscribe", plain),
            6..=9 => ("publish", json!({ "channel": channel, "data": { "word": self.random.u32(..) } })),
            10..=11 => ("presence_stats", plain),
            12 => ("history", json!({ "channel": channel, "limit": self.random.i8(..), "reverse": true })),
            13 => ("sub_refresh", json!({ "channel": channel, "token": self.token() })),
            14 => ("rpc", json!({ "method": "nothing" })),
            _ if self.random.u8(..4) == 0 => ("refresh", json!({ "token": self.token() })),
            _ => ("presence", plain),
        }
    }
}
