//! For tests of who has a turn when: tasks of a worker beside others that only give way, and a log of both. It is
//! compiled for tests alone.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::task::{LocalSet, spawn_local, yield_now};

/// What happens, a letter each. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Log(Rc<RefCell<String>>);

impl Log {
    /// It happens now.
    pub fn put(&self, what: char) {
        self.0.borrow_mut().push(what);
    }

    /// Until something has happened so many times.
    pub async fn until(&self, what: char, times: usize) {
        while self.0.borrow().matches(what).count() < times {
            yield_now().await;
        }
    }

    /// How it went until all of these, begun at once, were done: a `-` for each turn of others.
    pub async fn beside_others(
        &self,
        tasks: impl IntoIterator<Item = impl Future<Output = ()> + 'static>,
    ) -> String {
        let all = async {
            let tasks: Vec<_> = tasks.into_iter().map(spawn_local).collect();
            let theirs = self.clone();
            let others = spawn_local(async move {
                loop {
                    theirs.put('-');
                    yield_now().await;
                }
            });
            for task in tasks {
                task.await.unwrap();
            }
            others.abort();
        };
        LocalSet::new().run_until(all).await;
        self.0.borrow().clone()
    }
}
