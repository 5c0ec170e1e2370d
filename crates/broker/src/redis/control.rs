//! What instances tell each other, on the channel that all of them hear and on those that one hears alone. It carries
//! no publications and expects no answer.
//!
//! | bytes  | what                                                                              |
//! |--------|-----------------------------------------------------------------------------------|
//! | 0      | `0xFB`, which can never begin UTF-8 text                                          |
//! | 1      | version, 1                                                                        |
//! | 2      | what: 1, publications were lost before they reached the bus; 2, a control message |
//! | 3..19  | origin: the UUID of the lane, for 2 of the instance, that says so                 |
//! | 19..   | for 1: the channels, each as one byte of length and the name; none for all        |
//! | 19..   | for 2: the message (see `fanfare_protocol::control`)                              |

use std::collections::HashSet;

use bytes::{BufMut, Bytes, BytesMut};
use fanfare_protocol::{Channel, Control};
use uuid::Uuid;

const MAGIC: u8 = 0xFB;
const VERSION: u8 = 1;
const LOST: u8 = 1;
const CONTROL: u8 = 2;
const HEADER: usize = 19;

/// Something that an instance says to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// A lane has lost publications.
    Lost(Uuid, Lost),
    /// An instance wants something; its message is still to be read.
    Control(Uuid, Bytes),
}

impl Said {
    /// The message with which an instance wants something of others.
    pub fn encode_control(instance: Uuid, message: &Control) -> Bytes {
        let message = message.encode();
        let mut out = BytesMut::with_capacity(HEADER + message.len());
        out.put_slice(&[MAGIC, VERSION, CONTROL]);
        out.put_slice(instance.as_bytes());
        out.put_slice(&message);
        out.freeze()
    }

    /// Nothing, if it is nothing that this version knows.
    pub fn read(message: &[u8]) -> Option<Self> {
        let (header, rest) = message.split_at_checked(HEADER)?;
        match header {
            [MAGIC, VERSION, LOST, ..] => Lost::read(message).map(|(origin, lost)| Self::Lost(origin, lost)),
            [MAGIC, VERSION, CONTROL, instance @ ..] => {
                Some(Self::Control(Uuid::from_slice(instance).ok()?, Bytes::copy_from_slice(rest)))
            }
            _ => None,
        }
    }
}

/// The channels of which publications were lost; nothing stands for any channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost(Option<HashSet<Channel>>);

impl Lost {
    /// More channels than this are told as "any".
    const MOST: usize = 256;

    /// None was lost.
    pub fn new() -> Self {
        Self(Some(HashSet::new()))
    }

    /// One of this channel was lost.
    pub fn add(&mut self, channel: &Channel) {
        if let Some(channels) = &mut self.0 {
            channels.insert(channel.clone());
            if channels.len() > Self::MOST {
                self.0 = None;
            }
        }
    }

    /// Those as well.
    pub fn merge(&mut self, other: Self) {
        match other.0 {
            Some(channels) => channels.iter().for_each(|channel| self.add(channel)),
            None => self.0 = None,
        }
    }

    /// The channels by name, unless any may be meant.
    pub fn channels(&self) -> Option<&HashSet<Channel>> {
        self.0.as_ref()
    }

    /// The message with which a lane says that it lost them.
    pub fn encode(&self, origin: Uuid) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER + 64);
        out.put_slice(&[MAGIC, VERSION, LOST]);
        out.put_slice(origin.as_bytes());
        for channel in self.0.iter().flatten() {
            // A channel's name has at most 255 bytes.
            out.put_u8(channel.as_str().len() as u8);
            out.put_slice(channel.as_str().as_bytes());
        }
        out.freeze()
    }

    fn read(message: &[u8]) -> Option<(Uuid, Self)> {
        let (header, mut names) = message.split_at_checked(HEADER)?;
        let origin = Uuid::from_slice(header.strip_prefix(&[MAGIC, VERSION, LOST])?).ok()?;
        if names.is_empty() {
            return Some((origin, Self(None)));
        }
        let mut lost = Self::new();
        while let Some((&length, rest)) = names.split_first() {
            let (name, rest) = rest.split_at_checked(usize::from(length))?;
            lost.add(&Channel::new(std::str::from_utf8(name).ok()?).ok()?);
            names = rest;
        }
        Some((origin, lost))
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::control::Uplink;

    use super::*;

    fn lost(names: impl IntoIterator<Item = String>) -> Lost {
        let mut lost = Lost::new();
        names.into_iter().for_each(|name| lost.add(&Channel::new(&name).expect("a name")));
        lost
    }

    #[test]
    fn what_was_said_is_understood() {
        let origin = Uuid::from_u128(9);
        let rows = [
            lost(["lobby".to_owned()]),
            lost(["a".to_owned(), "é".repeat(127), "x".repeat(255)]),
            lost((0..Lost::MOST).map(|n| n.to_string())),
            Lost(None),
        ];
        for said in rows {
            assert_eq!(Said::read(&said.encode(origin)), Some(Said::Lost(origin, said)));
        }
        assert_eq!(lost((0..=Lost::MOST).map(|n| n.to_string())), Lost(None), "too many to name");
    }

    #[test]
    fn control_messages_are_carried() {
        let (instance, uplink) = (Uuid::from_u128(9), Uplink { session: "s".into(), data: "up".into() });
        let message = Control::Uplink(uplink);
        let said = Said::read(&Said::encode_control(instance, &message));
        let Some(Said::Control(origin, carried)) = said else { panic!("{said:?}") };
        assert_eq!((origin, Control::read(&carried)), (instance, Ok(message)));
    }

    #[test]
    fn anything_else_is_not() {
        let whole = lost(["lobby".to_owned()]).encode(Uuid::nil()).to_vec();
        let with = |at: usize, value: u8| {
            let mut bytes = whole.clone();
            bytes[at] = value;
            bytes
        };
        let rows = [
            vec![],
            b"hello".to_vec(),
            whole[..HEADER - 1].to_vec(),
            whole[..HEADER + 3].to_vec(),
            with(0, 0xFA),
            with(1, 2),
            with(2, 9),
            with(HEADER, 0),
            with(HEADER, 255),
            with(HEADER + 1, 0xFF),
        ];
        for bytes in rows {
            assert_eq!(Said::read(&bytes), None, "{bytes:?}");
        }
    }
}
