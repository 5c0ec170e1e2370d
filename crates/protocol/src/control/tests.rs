use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn whom() -> impl Strategy<Value = Whom> {
    (any::<String>(), option::of(any::<u128>()), option::of(any::<String>())).prop_map(
        |(user, connection, session)| Whom { user, connection: connection.map(Uuid::from_u128), session },
    )
}

fn bytes() -> impl Strategy<Value = Bytes> {
    any::<Vec<u8>>().prop_map(Bytes::from)
}

fn channel() -> impl Strategy<Value = Channel> {
    "[a-z:é]{1,60}".prop_map(|name| Channel::new(&name).expect("a name"))
}

fn control() -> impl Strategy<Value = Control> {
    let since = (any::<u64>(), any::<String>()).prop_map(|(offset, epoch)| Since { offset, epoch });
    let overrides =
        any::<[Option<bool>; 5]>().prop_map(|[presence, join_leave, recovery, positioning, push]| {
            Overrides { presence, join_leave, recovery, positioning, push_join_leave: push }
        });
    let optional = || option::of(bytes());
    let subscribe =
        (whom(), channel(), any::<Option<u64>>(), optional(), optional(), option::of(since), overrides);
    let spared = prop::collection::vec(any::<u128>().prop_map(Uuid::from_u128), 0..5);
    prop_oneof![
        subscribe.prop_map(|(whom, channel, expire_at, info, data, since, overrides)| {
            Control::Subscribe(Subscribe { whom, channel, expire_at, info, data, since, overrides })
        }),
        (whom(), option::of(channel()), any::<u32>(), any::<String>()).prop_map(
            |(whom, channel, code, reason)| Control::Unsubscribe(Unsubscribe { whom, channel, code, reason })
        ),
        (whom(), spared, any::<u32>(), any::<String>()).prop_map(|(whom, spared, code, reason)| {
            Control::Disconnect(Disconnect { whom, spared, code, reason })
        }),
        (whom(), any::<bool>(), any::<Option<u64>>(), optional()).prop_map(
            |(whom, expired, expire_at, info)| Control::Refresh(Refresh { whom, expired, expire_at, info })
        ),
        (any::<String>(), bytes()).prop_map(|(session, data)| Control::Uplink(Uplink { session, data })),
    ]
}

#[test]
fn broken_messages_are_named() {
    let whole = Control::Unsubscribe(Unsubscribe {
        whom: Whom { user: "ann".into(), ..Whom::default() },
        channel: Some(Channel::lobby()),
        code: 2000,
        reason: "gone".into(),
    })
    .encode()
    .to_vec();
    let with = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        bytes
    };
    let rows: &[(Vec<u8>, ControlError)] = &[
        (vec![], ControlError::Broken),
        (vec![VERSION], ControlError::Broken),
        (with(0, 9), ControlError::Version(9)),
        (with(1, 0), ControlError::Kind(0)),
        (with(1, 99), ControlError::Kind(99)),
        (whole[..whole.len() - 1].to_vec(), ControlError::Broken),
        (with(2, 0xFF), ControlError::Broken),
        (with(6, 0xFF), ControlError::Broken),
        (with(9, 2), ControlError::Broken),
    ];
    for (bytes, expected) in rows {
        assert_eq!(Control::read(&bytes.clone().into()), Err(*expected), "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn what_was_said_is_understood(control in control(), more in any::<Vec<u8>>()) {
        let mut message = control.encode().to_vec();
        // A later version of the same number may have added fields.
        message.extend(more);
        prop_assert_eq!(Control::read(&message.into()), Ok(control));
    }

    #[test]
    fn no_bytes_break_the_reader(kind in 0..8_u8, tail: Vec<u8>) {
        let mut bytes = vec![VERSION, kind];
        bytes.extend(tail);
        let _ = Control::read(&bytes.into());
    }
}
