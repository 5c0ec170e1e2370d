//! What reaches a session from outside of its connection: the end of a subscription that the hub has ended, what the
//! back end wants, and what the client itself says where it cannot say it on the connection. It is put down here and
//! read between two commands, or while one waits for the client, in the order in which it came.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_hub::Key;
use fanfare_protocol::{Channel, ConnectionId, Control};
use tokio::sync::Notify;
use uuid::Uuid;

use super::Sessions;
use crate::identity::User;

/// The most letters that wait for one session. Whoever has more is told to come again, for one of them might be lost.
pub const MOST_LETTERS: usize = 1024;

/// One piece of it.
#[derive(Debug)]
pub enum Letter {
    /// The hub has ended this subscription, if there is not another one meanwhile.
    Lapsed(Channel),
    /// The back end wants something of this client.
    Control(Arc<Control>),
    /// There was more than a session can be expected to read.
    TooMuch,
    /// The client says more than it is listened to.
    TooLoud,
}

/// One session's letters.
pub struct Mail {
    id: ConnectionId,
    arrived: Notify,
    letters: RefCell<VecDeque<Letter>>,
    /// Of a session that has a name.
    requests: Option<Box<Requests>>,
}

/// What a client says in requests of its own, which name its session.
struct Requests {
    session: Uuid,
    /// The bodies that wait, apart from the letters: the back end is heard between two commands.
    said: RefCell<VecDeque<Bytes>>,
    /// Their bytes.
    bytes: Cell<usize>,
    /// The most of those.
    most: usize,
}

impl Mail {
    /// Of a connection.
    pub fn new(id: ConnectionId) -> Rc<Self> {
        Rc::new(Self { id, arrived: Notify::new(), letters: RefCell::default(), requests: None })
    }

    /// Of a connection whose session has a name. At most so many bytes of what its client says wait for it.
    pub fn named(id: ConnectionId, session: Uuid, most: usize) -> Rc<Self> {
        let requests = Requests { session, said: RefCell::default(), bytes: Cell::new(0), most };
        let (arrived, letters) = Default::default();
        Rc::new(Self { id, arrived, letters, requests: Some(Box::new(requests)) })
    }

    /// The session's name, if it has one.
    pub fn session(&self) -> Option<Uuid> {
        self.requests.as_ref().map(|requests| requests.session)
    }

    /// The oldest letter.
    pub fn take(&self) -> Option<Letter> {
        let mut letters = self.letters.borrow_mut();
        let letter = letters.pop_front();
        if letters.is_empty() {
            // A session that has read its mail keeps no room for more.
            letters.shrink_to(0);
        }
        letter
    }

    /// What the client has said first of what waits.
    pub fn take_said(&self) -> Option<Bytes> {
        let requests = self.requests.as_ref()?;
        let mut all = requests.said.borrow_mut();
        let said = all.pop_front()?;
        requests.bytes.set(requests.bytes.get() - said.len());
        if all.is_empty() {
            all.shrink_to(0);
        }
        Some(said)
    }

    /// Whether the client has said something that waits.
    pub fn has_said(&self) -> bool {
        self.requests.as_ref().is_some_and(|requests| !requests.said.borrow().is_empty())
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.letters.borrow().is_empty() && !self.has_said()
    }

    /// Resolves when some has come.
    pub async fn arrived(&self) {
        while self.is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Resolves when there is a letter.
    pub async fn letter(&self) {
        while self.letters.borrow().is_empty() {
            self.arrived.notified().await;
        }
    }

    fn post(&self, letter: Letter) {
        let mut letters = self.letters.borrow_mut();
        match letters.len() {
            MOST_LETTERS.. => return,
            len if len == MOST_LETTERS - 1 => letters.push_back(Letter::TooMuch),
            _ => letters.push_back(letter),
        }
        self.arrived.notify_one();
    }

    fn post_said(&self, said: Bytes) {
        let Some(requests) = &self.requests else { return };
        let mut all = requests.said.borrow_mut();
        if all.len() >= MOST_LETTERS || requests.bytes.get() + said.len() > requests.most {
            drop(all);
            return self.post(Letter::TooLoud);
        }
        requests.bytes.set(requests.bytes.get() + said.len());
        all.push_back(said);
        self.arrived.notify_one();
    }
}

/// The sessions of one worker, by what they are looked for.
pub struct Roster {
    known: RefCell<Known>,
    /// Those of the whole instance that have a name.
    sessions: Arc<Sessions>,
}

#[derive(Default)]
struct Known {
    by_key: HashMap<Key, Rc<Mail>>,
    /// Anonymous ones, who have nothing in common, are not in it.
    by_user: HashMap<User, Vec<Key>>,
}

impl Roster {
    /// Nobody is there yet.
    pub fn new(sessions: Arc<Sessions>) -> Self {
        Self { known: RefCell::default(), sessions }
    }

    /// A session that has a user now. What is for it from now on is put into its mail.
    pub fn enter(&self, key: Key, user: &User, mail: &Rc<Mail>) {
        let mut known = self.known.borrow_mut();
        known.by_key.insert(key, mail.clone());
        if !user.is_anonymous() {
            let keys = known.by_user.entry(user.clone()).or_default();
            keys.reserve_exact(1);
            keys.push(key);
        }
    }

    /// It has ended.
    pub fn leave(&self, key: Key, user: &User) {
        let mut known = self.known.borrow_mut();
        known.by_key.remove(&key);
        if let Some(keys) = known.by_user.get_mut(user) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                known.by_user.remove(user);
            }
        }
    }

    /// The hub has ended a subscription.
    pub fn lapsed(&self, key: Key, channel: &Channel) {
        if let Some(mail) = self.known.borrow().by_key.get(&key) {
            mail.post(Letter::Lapsed(channel.clone()));
        }
    }

    /// The hub has ended this connection: whoever speaks for its session is told that there is none.
    pub fn ended(&self, key: Key) {
        if let Some(session) = self.known.borrow().by_key.get(&key).and_then(|mail| mail.session()) {
            self.sessions.leave(session);
        }
    }

    /// Puts a message into the mail of all those whom it is for.
    pub fn control(&self, message: &Arc<Control>) {
        let known = self.known.borrow();
        let whom = match &**message {
            Control::Subscribe(subscribe) => &subscribe.whom,
            Control::Unsubscribe(unsubscribe) => &unsubscribe.whom,
            Control::Disconnect(disconnect) => &disconnect.whom,
            Control::Refresh(refresh) => &refresh.whom,
            Control::Uplink(uplink) => {
                let seat = self.sessions.find(&uplink.session);
                match seat.and_then(|seat| known.by_key.get(&seat.key)) {
                    Some(mail) => mail.post_said(uplink.data.clone()),
                    None => self.sessions.count_lost(),
                }
                return;
            }
        };
        // What is no name is nobody's.
        let session = whom.session.as_ref().map(|name| name.parse::<Uuid>().ok());
        let is_meant = |mail: &&Rc<Mail>| {
            whom.connection.is_none_or(|only| only == mail.id)
                && session.is_none_or(|only| only.is_some() && only == mail.session())
        };
        let post = |mail: &Rc<Mail>| mail.post(Letter::Control(message.clone()));
        if whom.user.is_empty() {
            let named: std::collections::HashSet<Key> = known.by_user.values().flatten().copied().collect();
            let unnamed = known.by_key.iter().filter(|(key, _)| !named.contains(key));
            unnamed.map(|(_, mail)| mail).filter(is_meant).for_each(post);
        } else if let Some(keys) = known.by_user.get(&User::new(&whom.user)) {
            keys.iter().filter_map(|key| known.by_key.get(key)).filter(is_meant).for_each(post);
        }
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::control::{Refresh, Uplink, Whom};

    use super::*;
    use crate::registers::Seat;

    #[test]
    fn what_a_client_says_waits_within_bounds() {
        let of = |count: usize, bytes: usize| {
            let mail = Mail::named(Uuid::from_u128(1), Uuid::from_u128(2), 100);
            (0..count).for_each(|_| mail.post_said(vec![0; bytes].into()));
            let mut waiting = 0;
            while mail.take_said().is_some() {
                waiting += 1;
            }
            (waiting, matches!(mail.take(), Some(Letter::TooLoud)))
        };
        for (count, bytes, expected) in [
            (1, 100, (1, false)),
            (1, 101, (0, true)),
            (10, 10, (10, false)),
            (11, 10, (10, true)),
            (MOST_LETTERS + 1, 0, (MOST_LETTERS, true)),
        ] {
            assert_eq!(of(count, bytes), expected, "{count} of {bytes}");
        }
        // A session without a name is not spoken to.
        let mail = Mail::new(Uuid::from_u128(1));
        mail.post_said("{}".into());
        assert!(mail.is_empty());
    }

    #[test]
    fn what_is_more_than_a_session_reads_is_said_and_not_lost_in_silence() {
        let channel = Channel::new("a").unwrap();
        for (count, read, too_much) in [
            (1, 1, false),
            (MOST_LETTERS - 1, MOST_LETTERS - 1, false),
            (MOST_LETTERS, MOST_LETTERS - 1, true),
            (MOST_LETTERS + 5, MOST_LETTERS - 1, true),
        ] {
            let mail = Mail::new(Uuid::from_u128(1));
            (0..count).for_each(|_| mail.post(Letter::Lapsed(channel.clone())));
            let letters: Vec<_> = std::iter::from_fn(|| mail.take()).collect();
            let whole = letters.iter().take_while(|letter| matches!(letter, Letter::Lapsed(_))).count();
            let rest: Vec<_> = letters[whole..].iter().map(|rest| matches!(rest, Letter::TooMuch)).collect();
            assert_eq!((whole, &rest[..]), (read, if too_much { &[true][..] } else { &[] }), "{count}");
        }
    }

    #[test]
    fn whom_a_message_is_for_is_found_by_the_sessions_name() {
        let (sessions, user) = (Arc::<Sessions>::default(), User::new("ann"));
        let roster = Roster::new(sessions.clone());
        let (one, other) = (Uuid::from_u128(2), Uuid::from_u128(3));
        let named = Mail::named(Uuid::from_u128(1), one, 100);
        let key = Key::default();
        roster.enter(key, &user, &named);
        sessions.enter(one, Seat { worker: 0, key });
        let said = |session: Uuid| {
            let (session, data) = (session.to_string(), Bytes::from_static(b"{}"));
            roster.control(&Arc::new(Control::Uplink(Uplink { session, data })));
            named.take_said().is_some()
        };
        assert!(said(one) && !said(other));
        let meant = |session: &str| {
            let whom = Whom { user: "ann".into(), session: Some(session.to_owned()), ..Whom::default() };
            roster.control(&Arc::new(Control::Refresh(Refresh {
                whom,
                expired: true,
                expire_at: None,
                info: None,
            })));
            named.take().is_some()
        };
        assert!(meant(&one.to_string()) && !meant(&other.to_string()) && !meant("nonsense"));
        roster.ended(key);
        assert!(!said(one));
        assert_eq!(sessions.lost(), 2);
    }
}
