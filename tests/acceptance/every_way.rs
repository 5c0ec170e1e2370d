//! Every way to publish against every way to listen, over two instances. What each of them does beside is the business
//! of a file of its own.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::api::result;
use crate::emulation::setup;
use crate::harness::{
    Caller, Client, EventStream, Frame, Instance, RedisServer, Remote, Said, Socket, field, fields, varint,
};

const CHANNEL: &str = "everybody";

#[tokio::test]
async fn whoever_publishes_everybody_hears_it_once_and_in_one_order() {
    const EACH: usize = 5;
    let redis = RedisServer::start().await;
    let setup = setup("client_ping_interval = \"10m\"").redis(&redis.url());
    let (one, other) = (setup.start().await, setup.start().await);
    let (mut speakers, mut listeners) = (Vec::new(), Vec::new());
    for (place, instance, elsewhere) in [("here", &one, &other), ("there", &other, &one)] {
        for way in Speaker::WAYS {
            let speaker = Speaker::connect(way, instance, elsewhere.address(), &redis).await;
            speakers.push((format!("{way} {place}"), speaker));
        }
        for way in Listener::WAYS {
            listeners.push((format!("{way} {place}"), Listener::connect(way, instance.address()).await));
        }
    }
    let word = |by: &str, number: usize| json!({ "by": by, "n": number });
    let speaking = speakers.iter_mut().map(async |(by, speaker)| {
        for number in 0..EACH {
            speaker.publish(&word(by, number)).await;
        }
    });
    join_all(speaking).await;
    let mut order: Vec<Value> = Vec::new();
    for (name, listener) in &mut listeners {
        let mut heard = Vec::new();
        for _ in 0..speakers.len() * EACH {
            heard.push(listener.hear().await);
        }
        if order.is_empty() {
            order.clone_from(&heard);
        }
        assert_eq!(heard, order, "{name} heard another order");
    }
    for (by, _) in &speakers {
        let own = order.iter().filter(|heard| heard["by"] == by.as_str());
        let said: Vec<_> = (0..EACH).map(|number| word(by, number)).collect();
        assert!(own.eq(&said), "what {by} said: {order:?}");
    }
    // Nothing comes twice.
    let (by, last) = &mut speakers[0];
    last.publish(&word(by, EACH)).await;
    for (name, listener) in &mut listeners {
        assert_eq!(listener.hear().await, word(by, EACH), "{name}");
    }
}

enum Speaker<'a> {
    Raw(Client),
    Json(Caller),
    Protobuf(Binary),
    Remote(Remote),
    RedisCli(&'a RedisServer),
    Api(&'a Instance),
}

impl<'a> Speaker<'a> {
    const WAYS: [&'static str; 7] =
        ["raw", "json", "protobuf", Remote::PATHS[0], Remote::PATHS[1], "redis-cli", "api"];

    /// At this instance; what a session says by requests, it says at another one.
    async fn connect(
        way: &str,
        instance: &'a Instance,
        elsewhere: SocketAddr,
        redis: &'a RedisServer,
    ) -> Self {
        let address = instance.address();
        match way {
            "raw" => Self::Raw(Client::connect(instance.url(&format!("{CHANNEL}?echo=false"))).await),
            "json" => Self::Json(Caller::anonymous(address).await),
            "protobuf" => Self::Protobuf(Binary::connect(address).await),
            "redis-cli" => Self::RedisCli(redis),
            "api" => Self::Api(instance),
            path => {
                let mut remote = Remote::connect(address, path, json!({})).await;
                remote.uplink = elsewhere;
                Self::Remote(remote)
            }
        }
    }

    async fn publish(&mut self, word: &Value) {
        let request = json!({ "channel": CHANNEL, "data": word });
        match self {
            Self::Raw(client) => client.send(word.to_string().as_str()).await,
            Self::Json(caller) => drop(caller.result("publish", request).await),
            Self::Protobuf(binary) => {
                let data = field(2, word.to_string().as_bytes());
                binary.call(7, &[field(1, CHANNEL.as_bytes()), data].concat()).await;
            }
            Self::Remote(remote) => drop(remote.result("publish", request).await),
            Self::RedisCli(redis) => {
                let channel = format!("fanfare:channel:{CHANNEL}");
                assert_eq!(redis.cli(&["PUBLISH", &channel, &word.to_string()]).await, "2");
            }
            Self::Api(instance) => drop(result(instance, "publish", request).await),
        }
    }
}

enum Listener {
    Raw(Client),
    Json(Caller),
    Protobuf(Binary),
    Remote(Remote),
    UniSocket(Caller),
    UniRemote(Remote),
    Events(EventStream),
}

impl Listener {
    const WAYS: [&'static str; 9] = [
        "raw",
        "json",
        "protobuf",
        Remote::PATHS[0],
        Remote::PATHS[1],
        "/connection/uni_websocket",
        "/connection/uni_sse",
        "/connection/uni_http_stream",
        "events",
    ];

    async fn connect(way: &str, address: SocketAddr) -> Self {
        let wish = json!({ "channel": CHANNEL });
        let greeting = json!({ "subs": { CHANNEL: {} } }).to_string();
        match way {
            "raw" => Self::Raw(Client::connect(format!("ws://{address}/ws/{CHANNEL}")).await),
            "json" => {
                let mut caller = Caller::anonymous(address).await;
                caller.result("subscribe", wish).await;
                Self::Json(caller)
            }
            "protobuf" => {
                let mut binary = Binary::connect(address).await;
                binary.call(5, &field(1, CHANNEL.as_bytes())).await;
                Self::Protobuf(binary)
            }
            "/connection/uni_websocket" => {
                let mut caller = Caller::open_at(address, way, &[]).await;
                caller.say(&greeting).await;
                is_subscribed(caller.message().await.ok());
                Self::UniSocket(caller)
            }
            "/connection/uni_sse" | "/connection/uni_http_stream" => {
                let mut remote = Remote::open(address, way, &greeting).await.unwrap();
                is_subscribed(remote.message().await);
                Self::UniRemote(remote)
            }
            "events" => Self::Events(EventStream::connect(address, &format!("/sse/{CHANNEL}"), &[]).await),
            path => {
                let mut remote = Remote::connect(address, path, json!({})).await;
                remote.result("subscribe", wish).await;
                Self::Remote(remote)
            }
        }
    }

    /// The data of the next publication; anything else fails.
    async fn hear(&mut self) -> Value {
        let read = |text: &[u8]| serde_json::from_slice(text).unwrap();
        let within = |mut push: Value| push["pub"]["data"].take();
        match self {
            Self::Raw(client) => match client.next().await {
                Said::Text(text) => read(text.as_bytes()),
                said => panic!("not a text: {said:?}"),
            },
            Self::Json(caller) => within(caller.message().await.unwrap()["push"].take()),
            Self::Protobuf(binary) => read(&binary.publication().await),
            Self::Remote(remote) => within(remote.message().await.unwrap()["push"].take()),
            Self::UniSocket(caller) => within(caller.message().await.unwrap()),
            Self::UniRemote(remote) => within(remote.message().await.unwrap()),
            Self::Events(stream) => read(stream.next().await.unwrap().data.unwrap().as_bytes()),
        }
    }
}

fn is_subscribed(greeted: Option<Value>) {
    let greeted = greeted.expect("it is answered");
    assert!(greeted["connect"]["subs"][CHANNEL].is_object(), "{greeted}");
}

/// A client of the protocol in Protobuf. All that it says and hears is short.
struct Binary {
    socket: Socket,
    /// What has come and is not taken yet, by the numbers of fields.
    heard: VecDeque<BTreeMap<u64, Vec<u8>>>,
    id: u8,
}

impl Binary {
    async fn connect(address: SocketAddr) -> Self {
        let mut socket = Socket::connect(address).await;
        assert_eq!(socket.upgrade_at("/connection/websocket?format=protobuf", &[]).await.status, 101);
        let mut binary = Self { socket, heard: VecDeque::new(), id: 0 };
        binary.call(4, &[]).await;
        binary
    }

    /// Sends a command of this number, which must succeed.
    async fn call(&mut self, method: u8, request: &[u8]) {
        self.id += 1;
        let command = [&[1 << 3, self.id][..], &field(method, request)].concat();
        let framed = [&[command.len() as u8][..], &command].concat();
        self.socket.send(Frame::BINARY, &framed).await.unwrap();
        let reply = self.reply().await;
        assert_eq!((&reply[&1][..], reply.get(&2)), (&[self.id][..], None), "{method}");
    }

    async fn reply(&mut self) -> BTreeMap<u64, Vec<u8>> {
        while self.heard.is_empty() {
            let frame = self.socket.next_but_pings().await.expect("it goes on");
            let mut rest = &frame.payload[..];
            while !rest.is_empty() {
                let length = varint(&mut rest) as usize;
                self.heard.push_back(fields(&rest[..length]));
                rest = &rest[length..];
            }
        }
        self.heard.pop_front().unwrap()
    }

    async fn publication(&mut self) -> Vec<u8> {
        let reply = self.reply().await;
        let push = fields(&reply[&4]);
        fields(&push[&4]).remove(&4).expect("a publication has data")
    }
}
