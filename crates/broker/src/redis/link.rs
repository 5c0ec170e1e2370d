//! Opens connections to Redis, each step within the deadline. What is said over them is not its business.

use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, RedisResult, Value};
use tokio::time::timeout;

use super::fault::Fault;

/// The way to one Redis.
#[derive(Clone)]
pub(super) struct Link {
    client: Client,
    pub timeout: Duration,
}

impl Link {
    pub fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    /// A connection for commands, to a Redis that answers and is a master.
    pub async fn commands(&self) -> Result<MultiplexedConnection, Fault> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        let mut connection =
            self.within(self.client.get_multiplexed_async_connection_with_config(&config)).await?;
        self.check_role(&mut connection).await?;
        Ok(connection)
    }

    /// A connection for subscriptions.
    pub async fn subscriptions(&self) -> Result<PubSub, Fault> {
        self.within(self.client.get_async_pubsub()).await
    }

    /// A replica takes what is published, and tells only its own subscribers.
    pub async fn check_role(&self, connection: &mut MultiplexedConnection) -> Result<(), Fault> {
        let role: RedisResult<Value> =
            match timeout(self.timeout, redis::cmd("ROLE").query_async(connection)).await {
                Ok(role) => role,
                Err(_) => return Err(Fault::TimedOut(self.timeout)),
            };
        match role {
            Ok(Value::Array(role)) if role.first() == Some(&Value::BulkString(b"slave".to_vec())) => {
                Err(Fault::Replica)
            }
            // Access rules often forbid ROLE, and what speaks like Redis may not know it: any answer but that is fine,
            // except that one must be allowed in at all.
            Err(error) if error.code() == Some("NOAUTH") || error.code().is_none() => {
                Err(Fault::read(&error, self.timeout))
            }
            _ => Ok(()),
        }
    }

    /// The library's own deadlines do not cover every step.
    pub async fn within<T>(&self, step: impl Future<Output = RedisResult<T>>) -> Result<T, Fault> {
        match timeout(self.timeout, step).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Fault::read(&error, self.timeout)),
            Err(_) => Err(Fault::TimedOut(self.timeout)),
        }
    }
}
