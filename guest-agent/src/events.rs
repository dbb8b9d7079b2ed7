//! Exits and OOM kills on their way to the host.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio_stream::Stream;
use tonic::Status;

use crate::error::{Error, Result};
use crate::log;
use crate::proto::{Event, Notification, OomKill, ProcessExit, event};

/// Events kept for the subscriber; more processes cannot be registered at once.
const LIMIT: usize = 8192;

/// Keeps events until the subscriber takes them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Event>,
    subscribed: bool,
    waker: Option<Waker>,
}

impl Events {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while holding the lock, and a panic ends the machine anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells that a process has ended. Empty `exec_id`: init.
    pub fn exit(&self, container_id: &str, exec_id: &str, exit_status: u32) {
        let exit = ProcessExit {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
            exit_status,
        };
        self.push(event::Event::Exit(exit));
    }

    /// Tells that the OOM killer has killed in a container.
    pub fn oom_kill(&self, container_id: &str) {
        self.push(event::Event::OomKill(OomKill {
            container_id: container_id.to_owned(),
        }));
    }

    /// Tells what a container has said at its notify socket, unless too much else waits to be told.
    pub fn notification(&self, container_id: &str, text: &str) {
        if self.queue().waiting.len() >= LIMIT / 2 {
            return;
        }
        self.push(event::Event::Notification(Notification {
            container_id: container_id.to_owned(),
            text: text.to_owned(),
        }));
    }

    fn push(&self, event: event::Event) {
        let mut queue = self.queue();
        if queue.waiting.len() == LIMIT {
            log::error("Cannot keep all events: nobody takes them, the oldest is dropped");
            queue.waiting.pop_front();
        }
        queue.waiting.push_back(Event { event: Some(event) });
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Starts the one subscription; dropping it lets another begin.
    pub fn subscribe(&self) -> Result<Subscription> {
        let mut queue = self.queue();
        if queue.subscribed {
            return Err(Error::FailedPrecondition(
                "Cannot subscribe to events: there is a subscriber".into(),
            ));
        }
        queue.subscribed = true;
        Ok(Subscription(self.clone()))
    }
}

/// The events from first to last; never ends by itself.
pub struct Subscription(Events);

impl Stream for Subscription {
    type Item = std::result::Result<Event, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self.0.queue();
        if let Some(event) = queue.waiting.pop_front() {
            return Poll::Ready(Some(Ok(event)));
        }
        queue.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.subscribed = false;
        queue.waker = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn events_wait_for_the_first_subscriber_in_order() {
        let events = Events::default();
        events.oom_kill("c");
        events.exit("c", "", 137);

        let mut subscription = events.subscribe().expect("nobody else subscribes");
        assert!(events.subscribe().is_err());
        let first = subscription.next().await.expect("endless").expect("no error").event;
        let second = subscription.next().await.expect("endless").expect("no error").event;

        assert_eq!(
            first,
            Some(event::Event::OomKill(OomKill {
                container_id: "c".into()
            }))
        );
        assert!(matches!(second, Some(event::Event::Exit(exit)) if exit.exit_status == 137));
        drop(subscription);
        assert!(events.subscribe().is_ok());
    }

    #[test]
    fn the_queue_is_bounded() {
        let events = Events::default();
        for _ in 0..LIMIT + 3 {
            events.oom_kill("c");
        }
        assert_eq!(events.queue().waiting.len(), LIMIT);
    }
}
