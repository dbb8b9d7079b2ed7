//! Waiting for descriptors that libuv has no handle for, on one thread for all of them.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use napi::bindgen_prelude::Object;
use napi::{Env, JsDeferred};
use napi_derive::napi;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::error::{Result, failed};

type Resolver = fn(Env) -> napi::Result<bool>;
type Deferred = JsDeferred<bool, Resolver>;

struct Watcher {
    epoll: Epoll,
    waiting: Mutex<HashMap<i32, Deferred>>,
}

const EVENTS_AT_ONCE: usize = 64;

/// Resolves with true once `fd` can be read (or accepted from), is at its end, or has failed; with false when
/// `cancelWait` was called. One wait at a time for a descriptor, which must stay open until it is over.
#[napi(ts_return_type = "Promise<boolean>")]
pub fn wait_readable(env: &Env, fd: i32) -> Result<Object<'_>> {
    wait(env, fd, EpollFlags::EPOLLIN)
}

/// The same for writing, and for the end of a connect.
#[napi(ts_return_type = "Promise<boolean>")]
pub fn wait_writable(env: &Env, fd: i32) -> Result<Object<'_>> {
    wait(env, fd, EpollFlags::EPOLLOUT)
}

/// Ends the wait for `fd`, if there is one.
#[napi]
pub fn cancel_wait(fd: i32) {
    if let Some(Ok(watcher)) = WATCHER.get() {
        watcher.finish(fd, |_| Ok(false));
    }
}

static WATCHER: OnceLock<std::result::Result<Arc<Watcher>, Errno>> = OnceLock::new();

fn wait(env: &Env, fd: i32, events: EpollFlags) -> Result<Object<'_>> {
    let watcher = WATCHER
        .get_or_init(Watcher::start)
        .as_ref()
        .map_err(|errno| failed("start the thread that waits", *errno))?;
    let (deferred, promise) = env
        .create_deferred::<bool, Resolver>()
        .map_err(|_| failed("make a promise", Errno::ENOMEM))?;
    watcher.add(fd, events, deferred)?;
    Ok(promise)
}

impl Watcher {
    fn start() -> std::result::Result<Arc<Self>, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watcher = Arc::new(Self {
            epoll,
            waiting: Mutex::default(),
        });
        let served = Arc::clone(&watcher);
        std::thread::Builder::new()
            .name("readiness".into())
            .spawn(move || served.serve())
            .map_err(|_| Errno::EAGAIN)?;
        Ok(watcher)
    }

    fn serve(&self) {
        let mut events = [EpollEvent::empty(); EVENTS_AT_ONCE];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                // The descriptor of the epoll is ours and open: no other error is possible.
                Err(_) => return,
            };
            for event in events.iter().take(count) {
                if let Ok(fd) = i32::try_from(event.data()) {
                    self.finish(fd, |_| Ok(true));
                }
            }
        }
    }

    fn add(&self, fd: i32, events: EpollFlags, deferred: Deferred) -> Result<()> {
        let event = EpollEvent::new(
            events | EpollFlags::EPOLLONESHOT,
            u64::from(fd.unsigned_abs()),
        );
        // SAFETY: the caller keeps the descriptor open until the wait is over; one that is not open gives an error.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoll
            .add(borrowed, event)
            .map_err(|errno| failed(format_args!("wait for descriptor {fd}"), errno))?;
        waiting.insert(fd, deferred);
        Ok(())
    }

    fn finish(&self, fd: i32, resolver: Resolver) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(deferred) = waiting.remove(&fd) else {
            return;
        };
        // SAFETY: as in `add`; the wait is over only now.
        let _ = self.epoll.delete(unsafe { BorrowedFd::borrow_raw(fd) });
        drop(waiting);
        deferred.resolve(resolver);
    }
}
