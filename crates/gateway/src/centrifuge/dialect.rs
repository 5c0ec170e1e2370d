//! How a client and its session speak with one another, which is settled before the session begins. It knows none.

use fanfare_hub::{Format, Heartbeat};
use fanfare_protocol::centrifuge::{Command, ConnectRequest, Encoding, Offence, Request};

/// How a client and its session speak with one another.
#[derive(Debug, Clone)]
pub struct Dialect {
    /// How the client is spoken to.
    pub format: Format,
    /// What it has said already.
    pub greeting: Words,
    /// How it is found out whether it is still there, once it has said who it is.
    pub heartbeat: Heartbeat,
}

/// What a client has said, taken apart. Behind what is no command there is nothing.
pub type Words = Vec<Result<Command, Offence>>;

/// Takes apart what a client says who is spoken to in this format.
pub fn words(format: Format, message: &[u8]) -> Words {
    if !is_one_way(format) {
        return encoding_of(format).commands(message).collect();
    }
    let request = ConnectRequest::read(Encoding::Json, message);
    vec![request.map(|request| Command { id: 1, request: Request::Connect(Box::new(request)) })]
}

/// Whether whoever gets its publications so only listens.
pub(super) fn is_one_way(format: Format) -> bool {
    format.encoding == fanfare_hub::Encoding::Uni
}

/// How a client that gets its publications so is spoken with.
pub(super) fn encoding_of(format: Format) -> Encoding {
    match format.encoding {
        fanfare_hub::Encoding::Protobuf | fanfare_hub::Encoding::ProtobufDelta => Encoding::Protobuf,
        _ => Encoding::Json,
    }
}
