//! The catalogue against itself: messages made from the protocol's own table, by hand in both encodings, are read
//! the same from both, and written again as they should be.

use std::collections::BTreeMap;

use fanfare_protocol::centrifuge::client::{self, Heard, Reply};
use fanfare_protocol::centrifuge::{Encoding, Event, Format};
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use crate::wire::{Value, bytes, frame, int, message};

/// Section 2, with `!` where a field is written even when it is zero (1.2). `map<>` is of requests, `named<>` of
/// results, whose values Protobuf never leaves out.
const CATALOGUE: &str = "
    Command: connect 4 ConnectRequest · subscribe 5 SubscribeRequest · unsubscribe 6 ChannelRequest · publish 7 PublishRequest · presence 8 ChannelRequest · presence_stats 9 ChannelRequest · history 10 HistoryRequest · send 12 SendRequest · rpc 13 RPCRequest · refresh 14 RefreshRequest · sub_refresh 15 SubRefreshRequest
    Reply: error 2 Error · connect 5 ConnectResult · subscribe 6 SubscribeResult · unsubscribe 7 Empty · publish 8 Empty · presence 9 PresenceResult · presence_stats 10 PresenceStatsResult · history 11 HistoryResult · rpc 13 RPCResult · refresh 14 RefreshResult · sub_refresh 15 SubRefreshResult
    Push: pub 4 Publication · join 5 Join · leave 6 Join · unsubscribe 7 Unsubscribe · message 8 Message · subscribe 9 Subscribe · connect 10 Connect · disconnect 11 Disconnect · refresh 12 Refresh
    Empty:
    ChannelRequest: channel 1 str
    Error: code 1 u32 · message 2 str · temporary 3 bool
    ClientInfo: user 1 str! · client 2 str! · conn_info 3 bytes · chan_info 4 bytes
    Publication: data 4 bytes · info 5 ClientInfo · offset 6 u64 · tags 7 map · delta 8 bool · time 9 i64 · channel 10 str · key 11 str · removed 12 bool · score 13 sint64 · epoch 14 str · prev_data 15 bytes · version 16 u64
    StreamPosition: offset 1 u64 · epoch 2 str
    FilterNode: op 1 str · key 2 str · cmp 3 str · val 4 str · vals 5 str[] · nodes 6 FilterNode[]
    KeyedItem: key 1 str · version 2 u64
    TrackBatch: signature 1 str · items 2 KeyedItem[]
    ConnectRequest: token 1 str · data 2 bytes · subs 3 map<SubscribeRequest> · name 4 str · version 5 str · headers 6 map · flag 7 i64 · dict 8 str · profile 9 str
    ConnectResult: client 1 str · version 2 str · expires 3 bool · ttl 4 u32 · data 5 bytes · subs 6 named<SubscribeResult> · ping 7 u32 · pong 8 bool · session 9 str · node 10 str · time 11 i64 · flag 12 i64
    RefreshRequest: token 1 str
    RefreshResult: client 1 str · version 2 str · expires 3 bool · ttl 4 u32
    SubscribeRequest: channel 1 str · token 2 str · recover 3 bool · epoch 6 str · offset 7 u64 · data 8 bytes · positioned 9 bool · recoverable 10 bool · join_leave 11 bool · delta 12 str · tf 13 FilterNode · flag 14 i64 · type 15 i32 · phase 16 i32 · cursor 17 str · limit 18 i32 · asc 19 bool
    SubscribeResult: expires 1 bool · ttl 2 u32 · recoverable 3 bool · epoch 6 str · publications 7 Publication[] · recovered 8 bool · offset 9 u64 · positioned 10 bool · data 11 bytes · was_recovering 12 bool · delta 13 bool · id 14 i64 · type 15 i32 · phase 16 i32 · cursor 17 str · state 18 Publication[] · publish_debounce 19 u32
    SubRefreshRequest: channel 1 str · token 2 str · type 3 i32 · track 4 TrackBatch[] · untrack 5 str[]
    SubRefreshResult: expires 1 bool · ttl 2 u32 · items 3 Publication[]
    PublishRequest: channel 1 str · data 2 bytes · type 3 i32 · key 4 str · removed 5 bool
    PresenceResult: presence 1 named<ClientInfo>!
    PresenceStatsResult: num_clients 1 u32! · num_users 2 u32!
    HistoryRequest: channel 1 str · limit 7 i32 · since 8 StreamPosition · reverse 9 bool
    HistoryResult: publications 1 Publication[]! · epoch 2 str! · offset 3 u64!
    RPCRequest: data 1 bytes · method 2 str
    RPCResult: data 1 bytes
    SendRequest: data 1 bytes
    Join: info 1 ClientInfo
    Unsubscribe: code 2 u32 · reason 3 str
    Message: data 1 bytes
    Subscribe: recoverable 1 bool · epoch 4 str · offset 5 u64 · positioned 6 bool · data 7 bytes
    Connect: client 1 str · version 2 str · data 3 bytes · subs 4 named<SubscribeResult> · expires 5 bool · ttl 6 u32 · ping 7 u32 · pong 8 bool · session 9 str · node 10 str · time 11 i64
    Disconnect: code 1 u32 · reason 2 str · reconnect 3 bool
    Refresh: expires 1 bool · ttl 2 u32
";

proptest! {
    #[test]
    fn commands_are_read_and_written(seed: u64) {
        let mut made = Maker::new(seed);
        let id = made.number() as u32 | 1;
        let (json, protobuf) = made.enveloped("Command", |field| field == "send");
        let (sent, written) = (json.0.with("id", id), json.1.with("id", id));
        let (binary, again) = (protobuf.0.with(1, id), protobuf.1.with(1, id));

        let from_json = Encoding::Json.commands(sent.to_string().as_bytes()).collect::<Vec<_>>();
        let from_protobuf = Encoding::Protobuf.commands(&frame(&[message(&binary)])).collect::<Vec<_>>();
        prop_assert_eq!(&from_json, &from_protobuf, "{}", sent);
        let [Ok(command)] = &from_json[..] else { panic!("{sent}: {from_json:?}") };

        let mut text = Vec::new();
        client::put_command(Encoding::Json, &mut text, command).expect("JSON");
        prop_assert_eq!(parsed(&text), written);
        let mut unit = Vec::new();
        client::put_command(Encoding::Protobuf, &mut unit, command).expect("anything");
        prop_assert_eq!(unit, frame(&[message(&again)]));
    }

    #[test]
    fn answers_are_written_and_read(seed: u64) {
        let mut made = Maker::new(seed);
        let id = made.number() as u32 | 1;
        let (json, protobuf) = made.enveloped("Reply", |_| false);
        let (sent, written) = (json.0.with("id", id), json.1.with("id", id));
        let (binary, again) = (protobuf.0.with(1, id), protobuf.1.with(1, id));

        let from_json = client::replies(Format::Json, sent.to_string().as_bytes()).collect::<Vec<_>>();
        let from_protobuf = client::replies(Format::Protobuf, &frame(&[message(&binary)])).collect::<Vec<_>>();
        prop_assert_eq!(&from_json, &from_protobuf, "{}", sent);
        let [Ok(Reply::Answer { id, answer })] = &from_json[..] else { panic!("{sent}: {from_json:?}") };

        let mut text = Vec::new();
        Encoding::Json.put_answer(&mut text, *id, answer).expect("JSON");
        prop_assert_eq!(parsed(&text), written);
        let mut unit = Vec::new();
        Encoding::Protobuf.put_answer(&mut unit, *id, answer).expect("anything");
        prop_assert_eq!(unit, frame(&[message(&again)]));
    }

    #[test]
    fn pushes_are_written_and_read(seed: u64) {
        let mut made = Maker::new(seed);
        let (channel, id) = (made.word(), i64::from(made.number() as i32).max(1));
        let (json, protobuf) = made.enveloped("Push", |_| false);
        let with = |bare: Json| bare.with("channel", channel.clone()).with("id", id);
        let (bare, written) = (with(json.0), with(json.1));
        let with = |fields: Fields| {
            let head = [int(1, id as u64), bytes(2, &channel)];
            vec![bytes(4, message(&[&head[..], &fields].concat()))]
        };
        let (binary, again) = (with(protobuf.0), with(protobuf.1));

        let from_uni = client::replies(Format::UniJson, bare.to_string().as_bytes()).collect::<Vec<_>>();
        let in_reply = json!({ "push": bare }).to_string();
        let from_json = client::replies(Format::Json, in_reply.as_bytes()).collect::<Vec<_>>();
        let from_protobuf = client::replies(Format::Protobuf, &frame(&[message(&binary)])).collect::<Vec<_>>();
        prop_assert_eq!(&from_json, &from_protobuf, "{}", bare);
        prop_assert_eq!(&from_json, &from_uni, "{}", bare);
        let [Ok(Reply::Push(push))] = &from_json[..] else { panic!("{bare}: {from_json:?}") };

        let frames = [
            (Format::UniJson, bare.to_string().into_bytes()),
            (Format::Json, in_reply.into_bytes()),
            (Format::Protobuf, frame(&[message(&binary)])),
        ];
        for (format, frame) in &frames {
            let [Ok(heard)] = &client::heard(*format, frame).collect::<Vec<_>>()[..] else { panic!("{bare}") };
            match (heard, &push.event) {
                (Heard::Publication { channel, data, offset, delta }, Event::Publication(publication)) => {
                    prop_assert_eq!(channel, &push.channel);
                    let expected = (&publication.data[..], &publication.offset, &publication.delta);
                    prop_assert_eq!((*data, offset, delta), expected);
                }
                (Heard::Other(other), _) => prop_assert_eq!(&**other, &Reply::Push(push.clone())),
                other => panic!("{bare}: {other:?}"),
            }
        }

        for (format, expected) in [(Format::Json, json!({ "push": written })), (Format::UniJson, written.clone())] {
            let mut text = Vec::new();
            format.put_push(&mut text, push).expect("JSON");
            prop_assert_eq!(parsed(&text), expected);
        }
        let mut unit = Vec::new();
        Format::Protobuf.put_push(&mut unit, push).expect("anything");
        prop_assert_eq!(unit, frame(&[message(&again)]));
    }

    #[test]
    fn no_bytes_break_a_reader(frame: Vec<u8>, text in "[{}\\[\\]\":,a-z0-9\\n\\\\ ]{0,80}") {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            for frame in [&frame[..], text.as_bytes()] {
                let _ = encoding.commands(frame).count();
                let _ = client::replies(encoding.format(), frame).count();
                let _ = client::replies(Format::UniJson, frame).count();
                let _ = client::heard(encoding.format(), frame).count();
            }
        }
    }

    /// One byte of a good frame is another: it is read, or refused, and what is read can be written.
    #[test]
    fn a_damaged_frame_breaks_nothing(seed: u64, at: prop::sample::Index, byte: u8) {
        let mut made = Maker::new(seed);
        let (json, protobuf) = made.enveloped("Command", |field| field == "send");
        let text = json.0.with("id", 1).to_string().into_bytes();
        for (encoding, mut bytes) in [(Encoding::Json, text), (Encoding::Protobuf, frame(&[message(&protobuf.0)]))] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            for command in encoding.commands(&bytes).flatten() {
                client::put_command(encoding, &mut Vec::new(), &command).expect("what was read is JSON");
            }
        }
    }
}

/// What is sent, and what is written again: without zeros, and without what nobody knows.
type Pair<T> = (T, T);

/// A message in Protobuf.
type Fields = Vec<(u32, Value)>;

/// The same in JSON and in Protobuf.
type Made<J> = (Pair<J>, Pair<Fields>);

/// Makes messages from the catalogue, the same for the same seed.
struct Maker {
    rng: proptest::test_runner::TestRng,
    catalogue: BTreeMap<&'static str, Vec<(&'static str, u32, &'static str)>>,
}

impl Maker {
    fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let rng =
            proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &key);
        let catalogue =
            CATALOGUE.lines().filter_map(|line| line.trim().split_once(':')).map(|(name, fields)| {
                let fields = fields.split('·').filter(|field| !field.trim().is_empty()).map(|field| {
                    let [name, number, kind] = field.split_whitespace().collect::<Vec<_>>()[..] else {
                        panic!("{field}")
                    };
                    (name, number.parse().expect("a number"), kind)
                });
                (name, fields.collect())
            });
        Self { rng, catalogue: catalogue.collect() }
    }

    fn number(&mut self) -> u64 {
        self.rng.next_u64()
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    fn word(&mut self) -> String {
        let length = 1 + self.below(8) as usize;
        (0..length)
            .map(|_| ['a', '"', '\\', 'é', '\n', '🦀', '<', '\u{7f}', '\0'][self.below(9) as usize])
            .collect()
    }

    /// One of the fields of an envelope, sometimes with things that nobody knows.
    fn enveloped(&mut self, envelope: &str, skipped: impl Fn(&str) -> bool) -> Made<Json> {
        let fields =
            self.catalogue[envelope].iter().filter(|(name, ..)| !skipped(name)).copied().collect::<Vec<_>>();
        let (name, number, kind) = fields[self.below(fields.len() as u64) as usize];
        let (json, protobuf) = self.message(kind, 3);
        let mut sent = json!({ name: json.0, "unknown": { "a": [{}] } });
        let mut binary = vec![bytes(90, "unknown"), bytes(number, message(&protobuf.0)), int(91, 7)];
        if self.below(2) == 0 {
            sent = json!({ name: sent[name] });
            binary = vec![binary[1].clone()];
        }
        ((sent, json!({ name: json.1 })), (binary, vec![bytes(number, message(&protobuf.1))]))
    }

    fn message(&mut self, name: &str, depth: u64) -> Made<Json> {
        let mut json = (Map::new(), Map::new());
        let mut protobuf = (vec![], vec![]);
        let fields = self.catalogue.get(name).unwrap_or_else(|| panic!("{name}")).clone();
        for (name, number, kind) in fields {
            let always = kind.ends_with('!');
            let kind = kind.trim_end_matches('!');
            let zero = match kind {
                "str" => json!(""),
                "bool" => json!(false),
                "bytes" => Json::Null,
                "map" => json!({}),
                _ if kind.contains('<') => json!({}),
                _ if kind.ends_with("[]") => json!([]),
                _ if self.catalogue.contains_key(kind) => Json::Null,
                _ => json!(0),
            };
            if always {
                json.1.insert(name.to_owned(), zero.clone());
            }
            match self.below(4) {
                0 => {}
                1 => {
                    let spelled = if self.below(2) == 0 { Json::Null } else { zero };
                    json.0.insert(name.to_owned(), spelled);
                }
                _ => {
                    let (values, fields) = self.field(number, kind, depth);
                    if let (Some(sent), Some(written)) = values {
                        json.0.insert(name.to_owned(), sent);
                        json.1.insert(name.to_owned(), written);
                    }
                    // Fields may come in any order, and are written in the order of their numbers.
                    protobuf.0 = [fields.0, protobuf.0].concat();
                    protobuf.1.extend(fields.1);
                }
            }
        }
        ((Json::Object(json.0), Json::Object(json.1)), protobuf)
    }

    /// A field that is not zero; nothing where it would go too deep.
    fn field(&mut self, number: u32, kind: &str, depth: u64) -> Made<Option<Json>> {
        let both = |json: Json, field: (u32, Value)| {
            ((Some(json.clone()), Some(json)), (vec![field.clone()], vec![field]))
        };
        let any = self.number() | 1;
        match kind {
            "u32" => both(json!(any as u32), int(number, u64::from(any as u32))),
            "u64" => both(json!(any), int(number, any)),
            "i32" => both(json!(any as i32), int(number, i64::from(any as i32) as u64)),
            "i64" => both(json!(any as i64), int(number, any)),
            "sint64" => both(json!(any as i64), int(number, any << 1 ^ ((any as i64) >> 63) as u64)),
            "bool" => both(json!(true), int(number, 1)),
            "str" => {
                let word = self.word();
                both(json!(word), bytes(number, word))
            }
            "bytes" => {
                let payload = json!([self.word(), { self.word(): any }]);
                both(payload.clone(), bytes(number, payload.to_string()))
            }
            "map" => {
                let map =
                    (0..1 + self.below(3)).map(|_| (self.word(), self.word())).collect::<BTreeMap<_, _>>();
                let fields =
                    map.iter().map(|(key, value)| bytes(number, message(&[bytes(1, key), bytes(2, value)])));
                let fields = fields.collect::<Vec<_>>();
                ((Some(json!(map)), Some(json!(map))), (fields.clone(), fields))
            }
            "str[]" => {
                let words = (0..1 + self.below(3)).map(|_| self.word()).collect::<Vec<_>>();
                let fields = words.iter().map(|word| bytes(number, word)).collect::<Vec<_>>();
                ((Some(json!(words)), Some(json!(words))), (fields.clone(), fields))
            }
            _ if depth == 0 => ((None, None), (vec![], vec![])),
            _ => self.messages(number, kind, depth - 1),
        }
    }

    fn messages(&mut self, number: u32, kind: &str, depth: u64) -> Made<Option<Json>> {
        if let Some(kind) = kind.strip_suffix("[]") {
            let made = (0..1 + self.below(3)).map(|_| self.message(kind, depth)).collect::<Vec<_>>();
            let json = |pick: fn(&Pair<Json>) -> &Json| {
                Some(Json::Array(made.iter().map(|(json, _)| pick(json).clone()).collect()))
            };
            let fields = |pick: fn(&Pair<Fields>) -> &Fields| {
                made.iter().map(|(_, fields)| bytes(number, message(pick(fields)))).collect()
            };
            return (
                (json(|pair| &pair.0), json(|pair| &pair.1)),
                (fields(|pair| &pair.0), fields(|pair| &pair.1)),
            );
        }
        let Some((map, kind)) = kind.split_once('<') else {
            let (json, fields) = self.message(kind, depth);
            let field = |fields: &[_]| vec![bytes(number, message(fields))];
            return ((Some(json.0), Some(json.1)), (field(&fields.0), field(&fields.1)));
        };
        let kind = kind.trim_end_matches('>');
        let names = (0..1 + self.below(3)).map(|_| (self.word(), ())).collect::<BTreeMap<_, _>>();
        let mut json = (Map::new(), Map::new());
        let mut all = (vec![], vec![]);
        for name in names.into_keys() {
            let (value, fields) = self.message(kind, depth);
            json.0.insert(name.clone(), value.0);
            json.1.insert(name.clone(), value.1);
            all.0.push(bytes(number, message(&[bytes(2, message(&fields.0)), bytes(1, &name)])));
            let mut entry = vec![bytes(1, &name)];
            if map == "named" || !fields.1.is_empty() {
                entry.push(bytes(2, message(&fields.1)));
            }
            all.1.push(bytes(number, message(&entry)));
        }
        ((Some(Json::Object(json.0)), Some(Json::Object(json.1))), all)
    }
}

fn parsed(line: &[u8]) -> Json {
    assert!(!line.contains(&b'\n'));
    serde_json::from_slice(line).expect("JSON")
}

trait With<K> {
    fn with(self, key: K, value: impl Into<Json>) -> Self;
}

impl With<&str> for Json {
    fn with(mut self, key: &str, value: impl Into<Json>) -> Self {
        self[key] = value.into();
        self
    }
}

impl With<u32> for Fields {
    fn with(mut self, key: u32, value: impl Into<Json>) -> Self {
        let value = value.into().as_u64().expect("a number");
        self.insert(0, int(key, value));
        self
    }
}
