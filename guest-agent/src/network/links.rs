//! Links and their addresses.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};

use super::failed;
use super::plan::{Cidr, LinkPlan};
use crate::boot::uevent;
use crate::error::{Error, Result};

/// How long a link that was just plugged in may take to be found.
const PLUG_LIMIT: Duration = Duration::from_secs(10);

/// Index of every link by its name.
pub type Indexes = BTreeMap<String, u32>;

/// A link as it is.
struct Link {
    index: u32,
    name: String,
    mac: Vec<u8>,
}

/// Brings every planned link to its name, MTU and addresses, and up.
pub async fn apply(handle: &Handle, plans: &[LinkPlan]) -> Result<Indexes> {
    // Which one is missing is said below.
    let _ = uevent::appears("a link", PLUG_LIMIT, || plans.iter().all(is_there)).await;
    let mut links = list(handle).await?;
    for plan in plans {
        let position = links
            .iter()
            .position(|link| link.name != "lo" && has_address(plan, &link.mac));
        let position = position.ok_or_else(|| {
            Error::NotFound(format!(
                "Cannot configure interface \"{}\": no link has MAC address {:02x?}",
                plan.name, plan.mac
            ))
        })?;
        rename(handle, &mut links, position, &plan.name).await?;
        let index = links[position].index;
        set_up(handle, index, plan).await?;
        apply_addresses(handle, index, plan).await?;
    }
    Ok(links.into_iter().map(|link| (link.name, link.index)).collect())
}

fn has_address(plan: &LinkPlan, mac: &[u8]) -> bool {
    mac == plan.mac || plan.new_mac.is_some_and(|new_mac| mac == new_mac)
}

/// Whether the kernel has a link for the plan.
fn is_there(plan: &LinkPlan) -> bool {
    let addresses = [Some(plan.mac), plan.new_mac].map(|mac| mac.map(format_address));
    fs::read_dir("/sys/class/net").is_ok_and(|links| {
        links.flatten().any(|link| {
            let address = fs::read_to_string(link.path().join("address")).unwrap_or_default();
            addresses.iter().flatten().any(|wanted| wanted == address.trim())
        })
    })
}

fn format_address(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

async fn list(handle: &Handle) -> Result<Vec<Link>> {
    let messages: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(failed("list the links"))?;
    Ok(messages.into_iter().map(read_link).collect())
}

fn read_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: Vec::new(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            _ => {}
        }
    }
    link
}

/// Gives the link at `position` its name. Another link that has it steps aside.
async fn rename(handle: &Handle, links: &mut [Link], position: usize, name: &str) -> Result<()> {
    if links[position].name == name {
        return Ok(());
    }
    if let Some(other) = links.iter_mut().find(|link| link.name == name) {
        let aside = format!("aside{}", other.index);
        set_name(handle, other, &aside).await?;
    }
    set_name(handle, &mut links[position], name).await
}

/// Only a link that is down can be renamed.
async fn set_name(handle: &Handle, link: &mut Link, name: &str) -> Result<()> {
    let action = || format!("rename interface \"{}\" to \"{name}\"", link.name);
    let down = LinkUnspec::new_with_index(link.index).down().build();
    handle.link().change(down).execute().await.map_err(failed(action()))?;
    let renamed = LinkUnspec::new_with_index(link.index).name(name.to_owned()).build();
    handle
        .link()
        .change(renamed)
        .execute()
        .await
        .map_err(failed(action()))?;
    link.name = name.to_owned();
    Ok(())
}

async fn set_up(handle: &Handle, index: u32, plan: &LinkPlan) -> Result<()> {
    // Addresses come from the host, complete: no router's word, no waiting for duplicates. Without IPv6 there is nothing to set.
    for setting in ["accept_ra", "accept_dad"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/{setting}", plan.name), "0");
    }
    let mut message = LinkUnspec::new_with_index(index).up();
    if let Some(mtu) = plan.mtu {
        message = message.mtu(mtu);
    }
    if let Some(mac) = plan.new_mac {
        message = message.address(mac.to_vec());
    }
    handle
        .link()
        .change(message.build())
        .execute()
        .await
        .map_err(failed(format!("bring interface \"{}\" up", plan.name)))
}

async fn apply_addresses(handle: &Handle, index: u32, plan: &LinkPlan) -> Result<()> {
    let existing: Vec<AddressMessage> = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute()
        .try_collect()
        .await
        .map_err(failed(format!("list the addresses of \"{}\"", plan.name)))?;
    for message in existing {
        let wanted = read_address(&message).is_some_and(|address| plan.addresses.contains(&address));
        // The kernel makes link-local ones itself.
        if !wanted && message.header.scope == AddressScope::Universe {
            handle
                .address()
                .del(message)
                .execute()
                .await
                .map_err(failed(format!("remove an address of \"{}\"", plan.name)))?;
        }
    }
    for Cidr { address, prefix } in &plan.addresses {
        let mut request = handle.address().add(index, *address, *prefix).replace();
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request
            .execute()
            .await
            .map_err(failed(format!("add address {address}/{prefix} to \"{}\"", plan.name)))?;
    }
    Ok(())
}

/// IPv4 has the local address apart from the peer's; IPv6 may have just one.
fn read_address(message: &AddressMessage) -> Option<Cidr> {
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    let local = find(|attribute| {
        if let AddressAttribute::Local(address) = attribute {
            Some(*address)
        } else {
            None
        }
    });
    let address = local.or_else(|| {
        find(|attribute| {
            if let AddressAttribute::Address(address) = attribute {
                Some(*address)
            } else {
                None
            }
        })
    })?;
    Some(Cidr {
        address,
        prefix: message.header.prefix_len,
    })
}
