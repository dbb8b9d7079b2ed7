//! The control connection: one, from the host, for the agent's whole life.

use std::sync::Arc;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;

use crate::error::{Context, Error, Result};
use crate::proto::agent_server::AgentServer;
use crate::rpc::Service;
use crate::sandbox::Sandbox;
use crate::vsock::Listener;

/// Port that the host calls on.
pub const CONTROL_PORT: u32 = 1024;

/// Calls served at once.
const STREAM_LIMIT: u32 = 128;
/// Bytes that one call, and all together, may send ahead.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
const SEND_BUFFER: usize = 64 * 1024;
const HEADER_LIMIT: u32 = 16 * 1024;
/// Calls that the host has given up before they were looked at. A guest that stood still finds all of them at once, and the connection
/// must not end for it, as it does by default at 21. What the vsock holds of them meanwhile is less.
const GIVEN_UP_LIMIT: usize = 10_000;

/// Serves the first connection until it ends; later ones are closed at once.
pub async fn serve(listener: Listener, sandbox: Arc<Sandbox>) -> Result<()> {
    let action = || "accept the control connection".to_owned();
    let stream = listener.accept().await.context(action)?;
    // The port stays taken: nobody else in the guest can wait for the host on it.
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(STREAM_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIMIT)
        .max_pending_accept_reset_streams(GIVEN_UP_LIMIT)
        // Counted for as long as the connection lives, which is as long as the guest does.
        .max_local_error_reset_streams(None)
        .serve_connection(
            TokioIo::new(stream),
            TowerToHyperService::new(AgentServer::new(Service(sandbox))),
        );
    let end = connection.await;
    Err(Error::Internal(match end {
        Ok(()) => "Cannot go on: the host has closed the control connection".into(),
        Err(error) => format!("Cannot go on: the control connection is lost: {error}"),
    }))
}
