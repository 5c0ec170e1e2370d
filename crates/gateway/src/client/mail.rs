//! What reaches a session from outside of its connection: the end of a subscription that the hub has ended, and what the
//! back end wants. It is put down here and read between two commands, in the order in which it came.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use fanfare_hub::Key;
use fanfare_protocol::control::Whom;
use fanfare_protocol::{Channel, ConnectionId, Control};
use tokio::sync::Notify;

use crate::identity::User;

/// The most letters that wait for one session. Whoever has more is told to come again, for one of them might be lost.
const MOST: usize = 1024;

/// One piece of it.
#[derive(Debug)]
pub enum Letter {
    /// The hub has ended this subscription, if there is not another one meanwhile.
    Lapsed(Channel),
    /// The back end wants something of this client.
    Control(Arc<Control>),
    /// There was more than a session can be expected to read.
    TooMuch,
}

/// One session's letters.
pub struct Mail {
    id: ConnectionId,
    arrived: Notify,
    letters: RefCell<VecDeque<Letter>>,
}

impl Mail {
    /// Of a connection.
    pub fn new(id: ConnectionId) -> Rc<Self> {
        Rc::new(Self { id, arrived: Notify::new(), letters: RefCell::default() })
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

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.letters.borrow().is_empty()
    }

    /// Resolves when some has come.
    pub async fn arrived(&self) {
        while self.is_empty() {
            self.arrived.notified().await;
        }
    }

    fn post(&self, letter: Letter) {
        let mut letters = self.letters.borrow_mut();
        match letters.len() {
            MOST.. => return,
            len if len == MOST - 1 => letters.push_back(Letter::TooMuch),
            _ => letters.push_back(letter),
        }
        self.arrived.notify_one();
    }
}

/// The sessions of one worker, by the names under which they are looked for.
#[derive(Default)]
pub struct Roster(RefCell<Sessions>);

#[derive(Default)]
struct Sessions {
    by_key: HashMap<Key, Rc<Mail>>,
    /// Anonymous ones, who have nothing in common, are not in it.
    by_user: HashMap<User, Vec<Key>>,
}

impl Roster {
    /// A session that has a user now. What is for it from now on is put into its mail.
    pub fn enter(&self, key: Key, user: &User, mail: &Rc<Mail>) {
        let mut sessions = self.0.borrow_mut();
        sessions.by_key.insert(key, mail.clone());
        if !user.is_anonymous() {
            let keys = sessions.by_user.entry(user.clone()).or_default();
            keys.reserve_exact(1);
            keys.push(key);
        }
    }

    /// It has ended.
    pub fn leave(&self, key: Key, user: &User) {
        let mut sessions = self.0.borrow_mut();
        sessions.by_key.remove(&key);
        if let Some(keys) = sessions.by_user.get_mut(user) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                sessions.by_user.remove(user);
            }
        }
    }

    /// The hub has ended a subscription.
    pub fn lapsed(&self, key: Key, channel: &Channel) {
        if let Some(mail) = self.0.borrow().by_key.get(&key) {
            mail.post(Letter::Lapsed(channel.clone()));
        }
    }

    /// Puts a message into the mail of all those whom it is for.
    pub fn control(&self, message: &Arc<Control>) {
        let Some(whom) = whom(message) else { return };
        let sessions = self.0.borrow();
        let is_meant = |mail: &&Rc<Mail>| whom.connection.is_none_or(|only| only == mail.id);
        let post = |mail: &Rc<Mail>| mail.post(Letter::Control(message.clone()));
        if whom.user.is_empty() {
            let named: std::collections::HashSet<Key> =
                sessions.by_user.values().flatten().copied().collect();
            let unnamed = sessions.by_key.iter().filter(|(key, _)| !named.contains(key));
            unnamed.map(|(_, mail)| mail).filter(is_meant).for_each(post);
        } else if let Some(keys) = sessions.by_user.get(&User::new(&whom.user)) {
            keys.iter().filter_map(|key| sessions.by_key.get(key)).filter(is_meant).for_each(post);
        }
    }
}

/// Whom a message is for. What goes up to a session of a one-way transport is looked for by its session's name.
fn whom(message: &Control) -> Option<&Whom> {
    match message {
        Control::Subscribe(subscribe) => Some(&subscribe.whom),
        Control::Unsubscribe(unsubscribe) => Some(&unsubscribe.whom),
        Control::Disconnect(disconnect) => Some(&disconnect.whom),
        Control::Refresh(refresh) => Some(&refresh.whom),
        Control::Uplink(_) => None,
    }
}
