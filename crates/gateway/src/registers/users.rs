//! The different users of an instance's connections, for the census. Only coming and going takes the lock, never a
//! message.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::identity::User;

/// See the module.
#[derive(Default)]
pub struct Users(Mutex<HashMap<User, u32>>);

impl Users {
    /// A connection of this user has come. All anonymous ones together are nobody.
    pub fn enter(&self, user: &User) {
        if !user.is_anonymous() {
            *self.0.lock().entry(user.clone()).or_default() += 1;
        }
    }

    /// One that had come has gone.
    pub fn leave(&self, user: &User) {
        let mut users = self.0.lock();
        if let Some(connections) = users.get_mut(user) {
            *connections -= 1;
            if *connections == 0 {
                users.remove(user);
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.lock().len() as u64
    }
}
