//! From a reaped process to its event.

use std::sync::Arc;
use std::time::Duration;

use super::Container;
use super::create::Exit;
use crate::log;
use crate::process::State;
use crate::sandbox::lock;

/// Time that killed execs have before init is reported without them: one may hang in a file system whose server is gone.
const EXEC_LIMIT: Duration = Duration::from_secs(10);

impl Container {
    /// Reports an exec when it has ended.
    pub(super) async fn report_exec(self: Arc<Self>, exec_id: String, exit: Exit) {
        let Ok(status) = exit.await else { return };
        self.report_oom_kills();
        // Not found: deletion is refused while it runs, so it is there.
        let _ = self.with_process(&exec_id, |process| {
            process.state = State::Stopped;
            process.endpoints.process_ended();
            Ok(())
        });
        self.events.exit(&self.id, &exec_id, status);
        self.changed.notify_waiters();
    }

    /// When init has ended: kills the rest of the container, lets its execs be reported, and reports init last.
    pub(super) async fn report_init(self: Arc<Self>, exit: Exit) {
        let Ok(status) = exit.await else { return };
        lock(&self.inner).init.state = State::Exiting;
        if let Err(error) = self.cgroup.kill() {
            log::error(&error.to_string());
        }
        self.kill_transfers();
        let execs_done = self.wait_for(|inner| !inner.execs.values().any(crate::process::Process::is_live));
        if tokio::time::timeout(EXEC_LIMIT, execs_done).await.is_err() {
            log::warn(&format!(
                "Cannot wait longer for the execs of container \"{}\": its exit is reported first",
                self.id
            ));
        }
        self.report_oom_kills();
        {
            let mut inner = lock(&self.inner);
            inner.init.state = State::Stopped;
            inner.init.endpoints.process_ended();
            inner.paused = false;
            if let Some(task) = inner.oom_watch.take() {
                task.abort();
            }
        }
        self.events.exit(&self.id, "", status);
        self.changed.notify_waiters();
    }

    /// Watches for OOM kills until init has been reported.
    pub(super) fn watch_memory(self: &Arc<Self>) {
        let watch = match self.cgroup.watch_memory_events() {
            Ok(watch) => watch,
            Err(error) => return log::warn(&error.to_string()),
        };
        let container = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            // Reading arms the next notice; it fails when the cgroup is gone.
            while watch.read().is_ok() {
                let Some(container) = container.upgrade() else { return };
                container.report_oom_kills();
                drop(container);
                if watch.changed().await.is_err() {
                    return;
                }
            }
        });
        lock(&self.inner).oom_watch = Some(task.abort_handle());
    }

    /// Sends an event when the OOM killer has killed since the last look.
    fn report_oom_kills(&self) {
        let kills = self.cgroup.oom_kills();
        let mut inner = lock(&self.inner);
        if kills > inner.oom_kills {
            inner.oom_kills = kills;
            self.events.oom_kill(&self.id);
        }
    }
}
