//! The guest's network, through rtnetlink. The connection exists only while something is configured.

mod links;
pub mod loopback;
mod plan;
mod routes;

use std::fmt::Display;
use std::time::Duration;

use rtnetlink::Handle;

use crate::error::{Error, Result};
use crate::proto::ConfigureNetworkRequest;
use plan::Plan;

/// The kernel answers at once; this only bounds a fault.
const LIMIT: Duration = Duration::from_secs(30);

/// Brings links, addresses, routes and neighbours to what `request` says. Repeating it is allowed: what the named links have
/// beyond it is removed.
pub async fn configure(request: &ConfigureNetworkRequest) -> Result<()> {
    let plan = Plan::new(request)?;
    if plan == Plan::default() {
        return Ok(());
    }
    with_handle(async |handle| {
        let links = links::apply(handle, &plan.links).await?;
        routes::apply(handle, &links, &plan).await
    })
    .await
}

async fn with_handle(work: impl AsyncFnOnce(&Handle) -> Result<()>) -> Result<()> {
    let (connection, handle, _messages) = rtnetlink::new_connection().map_err(|cause| Error::Io {
        action: "open rtnetlink".into(),
        cause,
    })?;
    let connection = tokio::spawn(connection);
    let result = tokio::time::timeout(LIMIT, work(&handle)).await;
    connection.abort();
    result.unwrap_or_else(|_elapsed| {
        Err(Error::DeadlineExceeded(
            "Cannot configure the network: the kernel does not answer".into(),
        ))
    })
}

/// Adds what was being done to an rtnetlink error.
fn failed(action: impl Display) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |error| match error {
        rtnetlink::Error::NetlinkError(message) => Error::Io {
            action: action.to_string(),
            cause: message.to_io(),
        },
        other => Error::Internal(format!("Cannot {action}: {other}")),
    }
}
