//! Routes and neighbours.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::failed;
use super::links::Indexes;
use super::plan::{NeighbourPlan, Plan, RoutePlan, Scope};
use crate::error::{Error, Result};

/// What tells one route from another.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    destination: Option<IpAddr>,
    prefix: u8,
    gateway: Option<IpAddr>,
    link: Option<u32>,
}

/// Adds the planned routes and neighbours, and removes routes of ours that are not planned any more.
pub async fn apply(handle: &Handle, links: &Indexes, plan: &Plan) -> Result<()> {
    let mut wanted = Vec::new();
    for route in &plan.routes {
        let message = to_message(route, find(links, &route.interface)?)?;
        wanted.push(key(&message));
        handle
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .map_err(failed(format!(
                "add route to {}/{}",
                route.destination.address, route.destination.prefix
            )))?;
    }
    remove_others(handle, &wanted).await?;
    for neighbour in &plan.neighbours {
        add_neighbour(handle, links, neighbour).await?;
    }
    Ok(())
}

fn find(links: &Indexes, name: &str) -> Result<u32> {
    links
        .get(name)
        .copied()
        .ok_or_else(|| Error::NotFound(format!("Cannot find interface \"{name}\"")))
}

fn to_message(route: &RoutePlan, index: u32) -> Result<RouteMessage> {
    let wrong = |error| {
        Error::InvalidArgument(format!(
            "Cannot use route to {}/{}: {error}",
            route.destination.address, route.destination.prefix
        ))
    };
    let scope = match route.scope {
        Scope::Global => RouteScope::Universe,
        Scope::Link => RouteScope::Link,
        Scope::Host => RouteScope::Host,
    };
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.destination.address, route.destination.prefix)
        .map_err(wrong)?
        .output_interface(index)
        .protocol(RouteProtocol::Static)
        .scope(scope);
    if let Some(gateway) = route.gateway {
        builder = builder.gateway(gateway).map_err(wrong)?;
    }
    if let Some(source) = route.source {
        builder = builder.pref_source(source).map_err(wrong)?;
    }
    if let Some(metric) = route.metric {
        builder = builder.priority(metric);
    }
    if route.on_link {
        builder = builder.onlink();
    }
    Ok(builder.build())
}

/// Static routes of the main table are ours; the kernel's own have another protocol.
async fn remove_others(handle: &Handle, wanted: &[Key]) -> Result<()> {
    for filter in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        // A kernel without IPv6 answers with an error or with nothing.
        let existing: Vec<RouteMessage> = handle
            .route()
            .get(filter)
            .execute()
            .try_collect()
            .await
            .unwrap_or_default();
        for message in existing {
            let ours =
                message.header.table == RouteHeader::RT_TABLE_MAIN && message.header.protocol == RouteProtocol::Static;
            if ours && !wanted.contains(&key(&message)) {
                handle
                    .route()
                    .del(message)
                    .execute()
                    .await
                    .map_err(failed("remove a route that is not wanted any more"))?;
            }
        }
    }
    Ok(())
}

fn key(message: &RouteMessage) -> Key {
    let mut key = Key {
        destination: None,
        prefix: message.header.destination_prefix_length,
        gateway: None,
        link: None,
    };
    for attribute in &message.attributes {
        match attribute {
            // The default route has none when it is read back.
            RouteAttribute::Destination(address) if key.prefix > 0 => key.destination = to_ip(address),
            RouteAttribute::Gateway(address) => key.gateway = to_ip(address),
            RouteAttribute::Oif(index) => key.link = Some(*index),
            _ => {}
        }
    }
    key
}

fn to_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

async fn add_neighbour(handle: &Handle, links: &Indexes, neighbour: &NeighbourPlan) -> Result<()> {
    let request = handle
        .neighbours()
        .add(find(links, &neighbour.interface)?, neighbour.address)
        .link_layer_address(&neighbour.mac);
    request
        .replace()
        .execute()
        .await
        .map_err(failed(format!("add neighbour {}", neighbour.address)))
}
