//! Queries on their way to the host, and the answers that come back.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::error::{Error, Result};
use crate::proto::{NameAnswer, NameQuery};
use crate::sandbox::lock;

/// Queries that wait for their answer at once; the host counts, too.
const LIMIT: usize = 64;
/// Longer than the host asks for.
const ANSWER_WAIT: Duration = Duration::from_secs(12);

/// The way to the host, once it has asked for queries. Cheap to clone.
#[derive(Clone, Default)]
pub struct Queries(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    last: u32,
    host: Option<mpsc::Sender<Query>>,
    waiting: BTreeMap<u32, oneshot::Sender<Vec<u8>>>,
}

type Query = std::result::Result<NameQuery, Status>;

impl Queries {
    /// Begins to send queries to the host, in the place of what it has asked for before.
    pub fn send_to_host(
        &self,
        answers: impl Stream<Item = std::result::Result<NameAnswer, Status>> + Send + Unpin + 'static,
    ) -> ReceiverStream<Query> {
        let (sender, queries) = mpsc::channel(LIMIT);
        lock(&self.0).host = Some(sender);
        tokio::spawn(self.clone().take_answers(answers));
        ReceiverStream::new(queries)
    }

    async fn take_answers(self, mut answers: impl Stream<Item = std::result::Result<NameAnswer, Status>> + Unpin) {
        while let Some(Ok(answer)) = answers.next().await {
            let waiting = lock(&self.0).waiting.remove(&answer.number);
            if let Some(waiting) = waiting {
                let _ = waiting.send(answer.message);
            }
        }
    }

    /// Has the host ask the name server at `address`. Fails without an answer, and at once when too much is asked.
    pub async fn ask(&self, address: Ipv4Addr, tcp: bool, message: Vec<u8>) -> Result<Vec<u8>> {
        let (place, answer) = self.send(address, tcp, message)?;
        let answer = timeout(ANSWER_WAIT, answer).await;
        drop(place);
        match answer {
            Ok(Ok(message)) if !message.is_empty() => Ok(message),
            _ => Err(Error::DeadlineExceeded(
                "Cannot resolve a name: there is no answer".into(),
            )),
        }
    }

    fn send(&self, address: Ipv4Addr, tcp: bool, message: Vec<u8>) -> Result<(Place, oneshot::Receiver<Vec<u8>>)> {
        let busy = || Error::ResourceExhausted(format!("Cannot resolve a name: {LIMIT} queries are open"));
        let mut table = lock(&self.0);
        if table.waiting.len() >= LIMIT {
            return Err(busy());
        }
        let number = table.last.wrapping_add(1);
        let query = NameQuery {
            number,
            address: address.to_string(),
            tcp,
            message,
        };
        let host = table.host.as_ref().ok_or_else(busy)?;
        host.try_send(Ok(query)).map_err(|_| busy())?;
        let (sender, answer) = oneshot::channel();
        table.last = number;
        table.waiting.insert(number, sender);
        drop(table);
        Ok((Place(self.clone(), number), answer))
    }
}

/// Of a query that waits.
struct Place(Queries, u32);

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.0.0).waiting.remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

    #[tokio::test]
    async fn an_answer_comes_to_its_query() {
        let queries = Queries::default();
        assert!(queries.ask(SERVER, false, vec![1]).await.is_err());
        let (answers, incoming) = mpsc::channel(4);
        let mut outgoing = queries.send_to_host(ReceiverStream::new(incoming));
        let [first, second] = [[1], [2]].map(|message| {
            let queries = queries.clone();
            tokio::spawn(async move { queries.ask(SERVER, message == [2], message.into()).await })
        });

        let mut numbers = Vec::new();
        for _ in 0..2 {
            let query = outgoing.next().await.expect("open").expect("no error");
            assert_eq!(query.address, "127.0.0.11");
            assert_eq!(query.tcp, query.message == [2]);
            numbers.push((query.number, query.message));
        }
        for (number, mut message) in numbers.into_iter().rev() {
            message.push(9);
            answers.send(Ok(NameAnswer { number, message })).await.expect("open");
        }

        assert_eq!(first.await.expect("no panic").expect("an answer"), [1, 9]);
        assert_eq!(second.await.expect("no panic").expect("an answer"), [2, 9]);
        assert!(lock(&queries.0).waiting.is_empty());
    }

    #[tokio::test]
    async fn no_more_than_the_limit_wait() {
        let queries = Queries::default();
        let _outgoing = queries.send_to_host(tokio_stream::pending());
        let places: Vec<_> = (0..LIMIT)
            .map(|_| queries.send(SERVER, false, vec![]).expect("a place"))
            .collect();

        assert!(queries.send(SERVER, false, vec![]).is_err());
        drop(places);
        assert!(lock(&queries.0).waiting.is_empty());
    }
}
