//! An instance in a cgroup that would kill it, with some on it who do as they should, and who must not notice anything.

use std::time::Duration;

use super::{Certificates, Cgroup, Frame, Instance, Setup, Socket, within};

pub const MIB: u64 = 1 << 20;

/// What the container of these tests may take.
pub const LIMIT: u64 = 128 * MIB;

/// How many of them there are who do as they should.
pub const BYSTANDERS: usize = 20;

/// What the slow ones are owed: more than the kernel takes for them, and less than would have them cut.
pub const OWED: usize = 12;
pub const PART: usize = 60_000;

/// Whoever does not read, answers no ping; and how long that takes is the machine's business.
const PATIENT: [&str; 4] = ["--workers", "2", "--idle-timeout", "10m"];

/// An instance in its cgroup, and some on it who read what comes. The instance goes first.
pub struct Confined {
    pub instance: Instance,
    pub certificates: Option<Certificates>,
    bystanders: Vec<Socket>,
    cgroup: Cgroup,
    limit: u64,
    said: u32,
}

impl Drop for Confined {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (peak, killed) = (self.cgroup.peak(), self.cgroup.killed());
            eprintln!(
                "at most {peak} of {} bytes were in use, and {killed} were killed for memory",
                self.limit
            );
        }
    }
}

impl Confined {
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_as(Setup::default().flags(flags), LIMIT, None).await
    }

    pub async fn start_as(setup: Setup, limit: u64, certificates: Option<Certificates>) -> Self {
        let cgroup = Cgroup::limited(limit);
        let tls = certificates.as_ref().map(|certificates| certificates.flags("first"));
        let tls = tls.unwrap_or_else(|| ["--internal-listen", "127.0.0.1:0"].map(str::to_owned).to_vec());
        let tls: Vec<_> = tls.iter().map(String::as_str).collect();
        let instance = setup.within(&cgroup).flags(&PATIENT).flags(&tls).start().await;
        let most = instance.metric("fanfare_memory_limit_bytes", &[]).await;
        assert_eq!(most as u64, limit - limit / 4, "auto, and a quarter in reserve");
        let mut confined = Self { instance, certificates, bystanders: Vec::new(), cgroup, limit, said: 0 };
        for number in 0..BYSTANDERS {
            confined.bystanders.push(confined.join(&format!("bystander-{number}")).await);
        }
        confined
    }

    pub async fn join(&self, channel: &str) -> Socket {
        let address = self.instance.address();
        match &self.certificates {
            None => Socket::join(address, channel).await,
            Some(certificates) => certificates.client(&["first"]).join(address, channel).await,
        }
    }

    /// Some who are slow, and who hold the most of all who are in: `OWED` messages of `PART` bytes wait for each.
    pub async fn slow_readers(&self) -> Vec<Socket> {
        let mut slow = Vec::new();
        for _ in 0..3 {
            let mut reader = match &self.certificates {
                None => Socket::connect_narrow(self.instance.address()).await,
                Some(certificates) => {
                    certificates.client(&["first"]).narrow().connect(self.instance.address()).await
                }
            };
            assert_eq!(reader.upgrade("slow", &[]).await.status, 101);
            slow.push(reader);
        }
        let mut publisher = self.join("slow?echo=false").await;
        for _ in 0..OWED {
            publisher.send(Frame::BINARY, &[7; PART]).await.unwrap();
        }
        publisher.send(Frame::CLOSE, &1000_u16.to_be_bytes()).await.unwrap();
        assert_eq!(publisher.closed().await.0, 1000, "all was taken before");
        slow
    }

    pub async fn ended(&self) -> f64 {
        let reason = [("reason", "memory_pressure")];
        self.instance.metric("fanfare_connections_closed_total", &reason).await
    }

    /// How many were turned away, or cut before they had asked, for want of memory.
    pub async fn rejected(&self) -> f64 {
        self.instance.metric("fanfare_handshakes_rejected_total", &[("reason", "memory")]).await
    }

    /// Somebody who reads and speaks as it should hears itself at once.
    pub async fn bystanders_are_served(&mut self) {
        self.said += 1;
        let said = format!("still here {}", self.said);
        for bystander in &mut self.bystanders {
            bystander.send(Frame::TEXT, said.as_bytes()).await.unwrap();
        }
        for bystander in &mut self.bystanders {
            let heard = bystander.next_but_pings().await;
            assert_eq!(heard, Some(Frame { opcode: Frame::TEXT, payload: said.clone().into_bytes() }));
        }
    }

    /// Waits until newcomers are welcome, and will be: what was being read for those who have gone is not in use any
    /// more.
    pub async fn lets_in_again(&self) {
        within(Duration::from_secs(60), "clients are let in again", async || {
            self.used().await < (self.limit / 2) as f64 && self.instance.page("/readyz").await.status == 200
        })
        .await;
    }

    async fn used(&self) -> f64 {
        self.instance.metric("fanfare_memory_used_bytes", &[]).await
    }

    /// It lives, has never come near being killed, and is as it was before, whoever has been ended.
    pub async fn recovers(mut self, by: &str) {
        self.bystanders_are_served().await;
        self.lets_in_again().await;
        self.join("late").await;
        within(Duration::from_secs(30), "memory is given back", async || {
            self.used().await < (self.limit / 2) as f64
        })
        .await;
        self.bystanders_are_served().await;
        assert!(self.instance.is_running());
        let peak = self.cgroup.peak();
        assert_eq!(self.cgroup.killed(), 0, "{by}");
        assert!(peak <= self.limit, "{by}: {peak} bytes");
    }
}
