//! Processors that the VM is given while it runs: the kernel leaves it to user space to use them.

use std::fs;
use std::time::Duration;

use crate::boot::uevent;
use crate::error::{Error, Result};

const DIRECTORY: &str = "/sys/devices/system/cpu";
/// How long processors that were just plugged in may take to be found.
const PLUG_LIMIT: Duration = Duration::from_secs(10);
/// More than any kernel has.
const COUNT_LIMIT: u32 = 4096;

/// Returns when `count` processors are online.
pub async fn bring_online(count: u32) -> Result<()> {
    if count > COUNT_LIMIT {
        return Err(Error::InvalidArgument(format!(
            "Cannot bring {count} processors online: at most {COUNT_LIMIT} are wanted"
        )));
    }
    uevent::appears(&format!("{count} processors"), PLUG_LIMIT, || {
        bring_all_online() >= count
    })
    .await
}

/// How many are online then.
fn bring_all_online() -> u32 {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let online = names.filter(|name| is_processor(name) && is_online_now(name)).count();
    u32::try_from(online).unwrap_or(u32::MAX)
}

fn is_processor(name: &str) -> bool {
    name.strip_prefix("cpu")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// One that cannot go offline has no file that says so.
fn is_online_now(name: &str) -> bool {
    let path = format!("{DIRECTORY}/{name}/online");
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == "0" => fs::write(&path, "1").is_ok(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_processor_knows_numbered_ones_only() {
        assert!(is_processor("cpu0"));
        assert!(is_processor("cpu15"));
        assert!(!is_processor("cpu"));
        assert!(!is_processor("cpufreq"));
        assert!(!is_processor("cpuidle1"));
        assert!(!is_processor("online"));
    }
}
