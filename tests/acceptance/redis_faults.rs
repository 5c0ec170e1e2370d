//! With Redis away: no socket closes, neighbours still hear each other, readiness says so, and when it is
//! back everything is subscribed again within two seconds.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Caller, Client, Fault, Instance, RedisServer, Said, Setup, TcpProxy, eventually, throughout, within,
};

/// Back "within 2 s", and what a busy machine may add.
const BACK: Duration = Duration::from_millis(2500);

/// How often Redis may come back to instances that are late: a machine may be busy once, and whoever waits for too long
/// is late each time.
const TRIES: usize = 5;

struct Pair {
    one: Instance,
    other: Instance,
    /// Two on `one`, one on `other`, all in the same channel.
    clients: [Client; 3],
}

impl Pair {
    async fn over(url: &str) -> Self {
        let one = Instance::start(&["--redis", url]).await;
        let other = Instance::start(&["--redis", url]).await;
        let clients = [
            Client::connect(one.url("faults")).await,
            Client::connect(one.url("faults")).await,
            Client::connect(other.url("faults")).await,
        ];
        Self { one, other, clients }
    }

    /// What the first says is heard by everybody, itself included, and nothing else is on its way to anybody.
    async fn all_hear_only(&mut self, text: &str) {
        self.clients[0].send(text).await;
        for client in &mut self.clients {
            assert_eq!(client.next().await, Said::from(text));
        }
    }

    /// What the first says is heard by everybody, itself included. Gives what it heard before.
    async fn all_hear(&mut self, text: &str) -> Vec<Said> {
        let before = self.neighbours_hear(text).await;
        until(&mut self.clients[2], text).await;
        before
    }

    async fn neighbours_hear(&mut self, text: &str) -> Vec<Said> {
        self.clients[0].send(text).await;
        until(&mut self.clients[1], text).await;
        until(&mut self.clients[0], text).await
    }

    async fn live(&self) -> bool {
        self.one.page("/livez").await.status == 200 && self.other.page("/livez").await.status == 200
    }

    async fn up(&self) -> [bool; 2] {
        [
            self.one.metric("fanfare_broker_up", &[]).await == 1.0,
            self.other.metric("fanfare_broker_up", &[]).await == 1.0,
        ]
    }

    async fn nobody_was_closed(&self) {
        for (instance, clients) in [(&self.one, 2.0), (&self.other, 1.0)] {
            let metrics = instance.metrics().await;
            assert_eq!(metrics.value("fanfare_connections_closed_total", &[]), 0.0);
            assert_eq!(metrics.value("fanfare_connections", &[("protocol", "raw")]), clients);
        }
    }
}

/// Reads until `text` comes, and gives what came before it; what was said before a fault may come late.
async fn until(client: &mut Client, text: &str) -> Vec<Said> {
    let mut before = Vec::new();
    loop {
        match client.next().await {
            said if said == Said::from(text) => return before,
            other => before.push(other),
        }
    }
}

/// A channel's history is on one node and its publications go through another; instances enter at any.
#[tokio::test]
async fn a_redis_cluster_is_one_redis() {
    /// Of the slots that the first of three nodes has.
    const LAST_OF_THE_FIRST: u32 = 5460;
    let mut nodes = RedisServer::start_cluster().await;
    let open = Setup::open("history_size = 100\nrecovery = \"allow\"").redis(&nodes[0].url());
    let urls: Vec<String> = nodes.iter().map(RedisServer::url).collect();
    let mut instances = Vec::new();
    for others in [[1, 2], [2, 1]] {
        let others = others.map(|node| urls[node].as_str()).join(",");
        instances.push(open.clone().flags(&["--redis-cluster-nodes", &others]).start().await);
    }
    let up = async || {
        let mut up = 0.0;
        for instance in &instances {
            up += instance.metric("fanfare_broker_up", &[]).await;
        }
        up
    };
    eventually("both are up", async || up().await == 2.0).await;
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut pairs = Vec::new();
    for name in names {
        let speaker = Client::connect(instances[0].url(&format!("{name}?echo=false"))).await;
        let listener = Client::connect(instances[1].url(name)).await;
        pairs.push((speaker, listener));
    }
    for number in 0..20 {
        for (speaker, _) in &mut pairs {
            speaker.send(number.to_string().as_str()).await;
        }
    }
    for (_, listener) in &mut pairs {
        for number in 0..20 {
            assert_eq!(listener.next().await, Said::Text(number.to_string()));
        }
    }
    for name in names {
        let mut late = Client::connect(format!("{}?since=18&notices=false", instances[1].url(name))).await;
        assert_eq!(late.take(2).await, [Said::from("18"), Said::from("19")]);
    }
    // The node through which publications went is gone: another is taken. What was on it is gone with it.
    nodes[0].kill().await;
    eventually("they have noticed", async || up().await == 0.0).await;
    eventually("and gone elsewhere", async || up().await == 2.0).await;
    let mut spoken = 0;
    for (name, (speaker, listener)) in names.iter().zip(&mut pairs) {
        let slot = nodes[1].cli(&["CLUSTER", "KEYSLOT", &format!("fanfare:top:{{{name}}}")]).await;
        if slot.parse::<u32>().unwrap() > LAST_OF_THE_FIRST {
            spoken += 1;
            speaker.send("still here").await;
            assert_eq!(listener.next().await, Said::from("still here"), "{name}");
        }
    }
    assert!(spoken > 0, "all channels were on one node");
}

#[tokio::test]
async fn a_killed_redis_closes_no_socket() {
    let mut redis = RedisServer::start().await;
    let mut pair = Pair::over(&redis.url()).await;
    pair.all_hear("before").await;
    redis.kill().await;
    eventually("both know", async || pair.up().await == [false, false]).await;
    for number in 0..20 {
        pair.neighbours_hear(&format!("alone {number}")).await;
    }
    eventually("readiness tells", async || pair.one.page("/readyz").await.status == 503).await;
    assert!(pair.live().await);

    let mut took = Vec::new();
    loop {
        redis.restart().await;
        let back = async || redis.subscribers("fanfare:channel:faults").await == 2;
        took.push(eventually("everything is subscribed again", back).await);
        eventually("both know that it is back", async || pair.up().await == [true, true]).await;
        pair.all_hear("after").await;
        if took.last() < Some(&BACK) {
            break;
        }
        assert!(took.len() < TRIES, "not within {BACK:?}, ever: {took:?}");
        redis.kill().await;
        eventually("both know that it is away again", async || pair.up().await == [false, false]).await;
        eventually("readiness tells", async || pair.one.page("/readyz").await.status == 503).await;
    }
    pair.nobody_was_closed().await;
    assert!(pair.one.metric("fanfare_broker_reconnects_total", &[]).await >= 1.0);
    assert!(pair.one.metric("fanfare_gaps_total", &[("cause", "disconnected")]).await >= 1.0);
    eventually("ready again", async || pair.one.page("/readyz").await.status == 200).await;
}

#[tokio::test]
async fn a_paused_redis_is_found_out() {
    let redis = RedisServer::start().await;
    let mut pair = Pair::over(&redis.url()).await;
    pair.all_hear("before").await;
    redis.pause().await;
    within(Duration::from_secs(15), "both know", async || pair.up().await == [false, false]).await;
    pair.neighbours_hear("alone").await;
    throughout(Duration::from_millis(500), "alive", async || pair.live().await).await;
    redis.resume().await;
    eventually("both know that it is back", async || pair.up().await == [true, true]).await;
    pair.all_hear("after").await;
    pair.nobody_was_closed().await;
}

#[tokio::test]
async fn an_instance_starts_without_redis() {
    let mut redis = RedisServer::absent();
    let url = redis.url();
    let one = Instance::start(&["--redis", &url]).await;
    let other = Instance::start(&["--redis", &url]).await;
    assert_eq!(one.page("/readyz").await.status, 503);
    assert_eq!(one.page("/livez").await.status, 200);
    let mut clients = [
        Client::connect(one.url("faults")).await,
        Client::connect(one.url("faults")).await,
        Client::connect(other.url("faults")).await,
    ];
    clients[0].send("alone").await;
    until(&mut clients[1], "alone").await;
    redis.restart().await;
    eventually("ready", async || one.page("/readyz").await.status == 200).await;
    eventually("subscribed", async || redis.subscribers("fanfare:channel:faults").await == 2).await;
    let mut pair = Pair { one, other, clients };
    pair.all_hear("together").await;
    pair.nobody_was_closed().await;
}

/// One instance's way to Redis is a black hole; the other does not notice.
#[tokio::test]
async fn a_black_hole_is_found_and_left() {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::start(redis.address()).await;
    let one = Instance::start(&["--redis", &format!("redis://{}", proxy.address())]).await;
    let other = Instance::start(&["--redis", &redis.url()]).await;
    let clients = [
        Client::connect(one.url("faults?notices=true")).await,
        Client::connect(one.url("faults")).await,
        Client::connect(other.url("faults")).await,
    ];
    let mut pair = Pair { one, other, clients };
    pair.all_hear("before").await;

    proxy.set(Fault::Blackhole);
    within(Duration::from_secs(15), "the one knows", async || pair.up().await == [false, true]).await;
    let mut heard = pair.neighbours_hear("in the hole").await;
    pair.clients[2].send("outside").await;
    until(&mut pair.clients[2], "outside").await;

    proxy.set(Fault::None);
    proxy.reset_all();
    eventually("it is back", async || pair.up().await == [true, true]).await;
    heard.extend(pair.all_hear("after").await);
    // Who asked for it is told that something may have been missed, and nothing else is put in.
    let gap = serde_json::json!({ "fanfare": "gap", "channel": "faults" });
    let is_gap = |said: &Said| matches!(said, Said::Text(text) if serde_json::from_str(text).ok() == Some(gap.clone()));
    assert!(!heard.is_empty() && heard.iter().all(is_gap), "{heard:?}");
    pair.nobody_was_closed().await;
}

#[tokio::test]
async fn latency_and_resets_lose_no_order() {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::start(redis.address()).await;
    let mut pair = Pair::over(&format!("redis://{}", proxy.address())).await;
    proxy.set(Fault::Latency(Duration::from_millis(100)));
    for number in 0..100 {
        pair.clients[0].send(format!("{number}").as_str()).await;
    }
    let expected: Vec<Said> = (0..100).map(|number| Said::Text(number.to_string())).collect();
    for client in &mut pair.clients {
        assert_eq!(client.take(100).await, expected);
    }
    proxy.set(Fault::None);
    for round in 0..5 {
        proxy.reset_all();
        eventually("subscribed again", async || {
            pair.up().await == [true, true] && redis.subscribers("fanfare:channel:faults").await == 2
        })
        .await;
        pair.all_hear(&format!("after reset {round}")).await;
    }
    pair.nobody_was_closed().await;
    for turn in 0..3 {
        pair.all_hear_only(&format!("last {turn}")).await;
    }
}

/// The subscribers' connections are cut again and again while clients come and go: at the end the instances
/// want what their clients want, and each message arrives once.
#[tokio::test]
async fn interest_survives_cuts_and_flapping() {
    let redis = RedisServer::start().await;
    let mut pair = Pair::over(&redis.url()).await;
    let url = pair.one.url("flapping");
    let flapping = tokio::spawn(async move {
        for _ in 0..150 {
            Client::connect(&url).await.close().await;
        }
        Client::connect(&url).await
    });
    for round in 0..8 {
        redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        eventually("heard again", async || redis.subscribers("fanfare:channel:faults").await == 2).await;
        pair.neighbours_hear(&format!("round {round}")).await;
    }
    let mut stayed = flapping.await.unwrap();
    eventually("wanted where somebody is", async || {
        redis.subscribers("fanfare:channel:flapping").await == 1
            && redis.subscribers("fanfare:channel:faults").await == 2
            && pair.up().await == [true, true]
    })
    .await;
    stayed.send("once").await;
    assert_eq!(stayed.next().await, "once".into());
    stayed.send("and no more").await;
    assert_eq!(stayed.next().await, "and no more".into());
    pair.all_hear("at last").await;
    pair.all_hear_only("each once").await;
    let channels = redis.cli(&["PUBSUB", "CHANNELS", "fanfare:channel:*"]).await;
    let mut channels: Vec<&str> = channels.lines().collect();
    channels.sort_unstable();
    assert_eq!(channels, ["fanfare:channel:faults", "fanfare:channel:flapping", "fanfare:channel:lobby"]);
}

#[tokio::test]
async fn a_killed_instance_costs_its_own_clients_a_reconnect() {
    let redis = RedisServer::start().await;
    let mut pair = Pair::over(&redis.url()).await;
    pair.all_hear("before").await;
    pair.one.kill().await;
    let [lost, _, other] = &mut pair.clients;
    assert_eq!(lost.closed().await.0, 1006);
    *lost = Client::connect(pair.other.url("faults")).await;
    lost.send("here again").await;
    assert_eq!(other.next().await, "here again".into());
    assert_eq!(lost.next().await, "here again".into());
    eventually("Redis knows that it is gone", async || {
        redis.subscribers("fanfare:channel:faults").await == 1
    })
    .await;
    eventually("the other serves", async || pair.other.page("/readyz").await.status == 200).await;
}

/// An instance that stood still (a paused virtual machine) goes on where it was.
#[tokio::test]
async fn an_instance_that_stood_still_goes_on() {
    let redis = RedisServer::start().await;
    let mut pair = Pair::over(&redis.url()).await;
    pair.one.signal("STOP").await;
    for number in 0..20 {
        pair.clients[2].send(format!("meanwhile {number}").as_str()).await;
        until(&mut pair.clients[2], &format!("meanwhile {number}")).await;
    }
    let (other, answered) = (&pair.other, async || pair.other.page("/livez").await.status == 200);
    throughout(Duration::from_millis(3500), "the other does not notice", answered).await;
    assert_eq!(other.metric("fanfare_broker_up", &[]).await, 1.0);
    pair.one.signal("CONT").await;
    eventually("it is back", async || pair.up().await == [true, true]).await;
    pair.all_hear("after").await;
    pair.nobody_was_closed().await;
}

/// A way too narrow for what is said: Redis cuts the instance off, which is a gap and no silence.
#[tokio::test]
async fn a_way_too_narrow_is_a_gap() {
    let redis = RedisServer::start().await;
    redis.cli(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 0"]).await;
    let proxy = TcpProxy::start(redis.address()).await;
    let narrow = Instance::start(&["--redis", &format!("redis://{}", proxy.address())]).await;
    let mut listener = Client::connect(narrow.url("narrow")).await;
    let wide = Instance::start(&["--redis", &redis.url()]).await;
    let mut speaker = Client::connect(wide.url("narrow?echo=false")).await;
    proxy.set(Fault::Bandwidth(100_000));
    // Far more than the sockets on the way can hold: Redis cuts the connection, or the canary does not come.
    for number in 0..400 {
        speaker.send(Said::Binary(vec![number as u8; 60_000])).await;
    }
    eventually("a gap", async || narrow.metric("fanfare_gaps_total", &[]).await > 0.0).await;
    proxy.set(Fault::None);
    eventually("it is back", async || narrow.metric("fanfare_broker_up", &[]).await == 1.0).await;
    speaker.send("wide again").await;
    until(&mut listener, "wide again").await;
    assert_eq!(narrow.metric("fanfare_connections_closed_total", &[]).await, 0.0);
}

/// Publishing goes on for as long as it may while Redis is away, and takes no more memory than its spool.
#[tokio::test]
async fn memory_is_bounded_while_redis_is_away() {
    const SPOOL: f64 = 1024.0 * 1024.0;
    let mut redis = RedisServer::start().await;
    let instance = Instance::start(&["--redis", &redis.url(), "--redis-spool", "1MiB"]).await;
    let mut client = Client::connect(instance.url("spool")).await;
    redis.kill().await;
    eventually("it knows", async || instance.metric("fanfare_broker_up", &[]).await == 0.0).await;
    for number in 0..200 {
        client.send(Said::Binary(vec![number as u8; 60_000])).await;
        assert_eq!(client.next().await, Said::Binary(vec![number as u8; 60_000]));
    }
    let metrics = instance.metrics().await;
    assert!(metrics.value("fanfare_broker_spool_bytes", &[]) <= SPOOL);
    assert!(metrics.value("fanfare_broker_spool_dropped_total", &[]) > 0.0);
    assert!(metrics.value("process_resident_memory_bytes", &[]) < 100e6);
}

/// The last to leave a channel ends the instance's interest in it; the lobby is always heard.
#[tokio::test]
async fn an_instance_hears_what_its_clients_want() {
    let redis = RedisServer::start().await;
    let instance = Instance::start(&["--redis", &redis.url()]).await;
    let first = Client::connect(instance.url("wanted")).await;
    let second = Client::connect(instance.url("wanted")).await;
    assert_eq!(redis.subscribers("fanfare:channel:wanted").await, 1);
    assert_eq!(redis.subscribers("fanfare:channel:lobby").await, 1);
    first.close().await;
    drop(second);
    eventually("nobody wants it any more", async || redis.subscribers("fanfare:channel:wanted").await == 0)
        .await;
    assert_eq!(redis.subscribers("fanfare:channel:lobby").await, 1);
}

#[tokio::test]
async fn what_redis_refuses_is_said_without_the_password() {
    let redis = RedisServer::start().await;
    redis.cli(&["CONFIG", "SET", "requirepass", "right"]).await;
    let url = |password: &str| format!("redis://:{password}@{}", redis.address());
    let wrong = Instance::start(&["--redis", &url("notthisone")]).await;
    let told = wrong.page("/readyz").await;
    assert_eq!(told.status, 503);
    assert!(!told.body.contains("notthisone"));
    wrong
        .log()
        .find("the refusal", |line| {
            let text = line.to_string();
            text.contains("WRONGPASS") || text.to_lowercase().contains("password") || text.contains("NOAUTH")
        })
        .await;
    assert!(wrong.log().lines().iter().all(|line| !line.to_string().contains("notthisone")));

    let right = Instance::start(&["--redis", &url("right"), "--redis-prefix", "mine"]).await;
    eventually("ready with the password", async || right.page("/readyz").await.status == 200).await;
    let _client = Client::connect(right.url("prefixed")).await;
    let heard =
        redis.cli(&["-a", "right", "--no-auth-warning", "PUBSUB", "NUMSUB", "mine:channel:prefixed"]).await;
    assert!(heard.ends_with('1'), "{heard}");
}

#[tokio::test]
async fn a_channel_with_a_history_is_made_good() {
    let setup = Setup::open("history_size = 10000");
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::start(redis.address()).await;
    let near = setup.clone().redis(&redis.url()).start().await;
    let far = setup.redis(&format!("redis://{}", proxy.address())).start().await;
    let mut publisher = Client::connect(near.url("kept?echo=false")).await;
    let mut listener = Client::connect(far.url("kept?notices=true")).await;
    publisher.send("before").await;
    assert_eq!(listener.next().await, "before".into());
    // What is published while the listener's instance cannot hear Redis comes all the same, once and in order, and
    // there is no notice of a gap among it.
    let mut number = 0;
    for _ in 0..3 {
        proxy.set(Fault::Blackhole);
        proxy.reset_all();
        eventually("it is cut off", async || far.metric("fanfare_broker_up", &[]).await == 0.0).await;
        for _ in 0..100 {
            publisher.send(format!("{number}").as_str()).await;
            number += 1;
        }
        let appended = async || near.metric("fanfare_broker_spool_bytes", &[]).await == 0.0;
        eventually("Redis has it", appended).await;
        proxy.set(Fault::None);
        for expected in number - 100..number {
            assert_eq!(listener.next().await, format!("{expected}").as_str().into());
        }
    }
    let metrics = far.metrics().await;
    assert_eq!(metrics.value("fanfare_connections_closed_total", &[]), 0.0);
    assert_eq!(metrics.value("fanfare_gaps_total", &[]), 0.0);
}

/// The old master after a failover, when nobody has closed its connections: it answers, and will write nothing.
#[tokio::test]
async fn nobody_waits_for_a_redis_that_has_become_a_replica() {
    let table = "[channels]\nmay_subscribe = \"anonymous\"\nhistory_size = 10\nrecovery = \"allow\"\n";
    let (master, redis) = (RedisServer::start().await, RedisServer::start().await);
    let instance = Setup::new(table).redis(&redis.url()).start().await;
    eventually("ready", async || instance.page("/readyz").await.status == 200).await;
    let mut caller = Caller::anonymous(instance.address()).await;
    let wish = |channel: &str| json!({ "channel": channel, "recoverable": true });
    caller.result("subscribe", wish("before")).await;

    redis.cli(&["REPLICAOF", "127.0.0.1", &master.address().port().to_string()]).await;
    // What can be recovered cannot be subscribed to now, and the client is told to try again later.
    for number in 0..3 {
        let answer = caller.call("subscribe", wish(&format!("new {number}"))).await;
        assert_eq!(answer["error"]["temporary"], true, "{answer}");
    }
    let mut listener = Client::connect(instance.url("raw?notices=true")).await;
    within(Duration::from_secs(15), "readiness tells", async || {
        let told = instance.page("/readyz").await;
        told.status == 503 && told.body.contains("is a replica")
    })
    .await;
    // And when it is known, nobody waits either.
    let mut late = Client::connect(instance.url("late?notices=true")).await;
    assert_eq!(caller.error("subscribe", wish("newer")).await, 100);

    redis.cli(&["REPLICAOF", "NO", "ONE"]).await;
    eventually("ready again", async || instance.page("/readyz").await.status == 200).await;
    // Whoever was let in meanwhile is told that something may have been missed.
    for (channel, client) in [("raw", &mut listener), ("late", &mut late)] {
        let Said::Text(said) = client.next().await else { panic!("no notice in {channel}") };
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said, json!({ "fanfare": "gap", "channel": channel }));
    }
    caller.result("subscribe", wish("new 0")).await;
    assert_eq!(instance.metric("fanfare_connections_closed_total", &[]).await, 0.0);
}
