//! The word to the host that everything is served, and the pause in which a guest is saved to be restored.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::boot::{self, phases};
use crate::error::{Context, Error, Result};
use crate::vsock::Stream;

/// Port on the host that waits for the ready line, unless the kernel command line has another.
const PORT: u32 = 1026;
/// What the line begins with: 1 is the version of the API, as the host reads it.
const READY: &str = "READY 1";
/// The host listens before it starts the VM, or lets it go on.
const LIMIT: Duration = Duration::from_secs(30);
/// Until a connection that was refused is tried again.
const PAUSE: Duration = Duration::from_millis(50);
const ANSWER_LIMIT: usize = 64;
const NONCE_DIGITS: usize = 32;

/// Tells the host that both ports are served. When the host answers that the guest is to hold still, returns once it was restored, after
/// it has said so with the nonce that only its memory has.
pub async fn announce() -> Result<()> {
    let mut stream = tell(&format!("{READY}\n")).await?;
    phases::mark("ready");
    let Some(nonce) = hold_asked(&mut stream).await else {
        return Ok(());
    };
    stream
        .write_all(b"HELD\n")
        .await
        .context(|| "tell the host that the guest holds still".into())?;
    // A guest that is restored has another CID, and its kernel breaks the connections that it had.
    stream.broken().await;
    drop(stream);
    phases::mark("restored");
    drop(tell(&format!("{READY} {nonce}\n")).await?);
    Ok(())
}

async fn tell(line: &str) -> Result<Stream> {
    let action = || "tell the host that the agent is ready".to_owned();
    let telling = async {
        loop {
            match try_to_tell(line).await {
                // Others have filled the queue of a port that the guests of a host share.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => tokio::time::sleep(PAUSE).await,
                other => return other,
            }
        }
    };
    match tokio::time::timeout(LIMIT, telling).await {
        Ok(result) => result.context(action),
        Err(_elapsed) => Err(Error::DeadlineExceeded(format!(
            "Cannot {}: the host does not answer",
            action()
        ))),
    }
}

async fn try_to_tell(line: &str) -> io::Result<Stream> {
    let mut stream = Stream::connect_host(boot::ready_port(PORT)).await?;
    stream.write_all(line.as_bytes()).await?;
    Ok(stream)
}

/// The nonce of `HOLD <nonce>`; most hosts close the connection without a word.
async fn hold_asked(stream: &mut Stream) -> Option<String> {
    parse_hold(&answer(stream).await).map(str::to_owned)
}

/// What comes until a line or the connection ends.
async fn answer(stream: &mut Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_LIMIT && !bytes.ends_with(b"\n") {
        match stream.read_buf(&mut bytes).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
    }
    bytes
}

fn parse_hold(bytes: &[u8]) -> Option<&str> {
    let nonce = std::str::from_utf8(bytes)
        .ok()?
        .strip_prefix("HOLD ")?
        .strip_suffix('\n')?;
    (nonce.len() == NONCE_DIGITS && nonce.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_hold_takes_a_whole_nonce_only() {
        let nonce = "0123456789abcdef0123456789abcdef";
        assert_eq!(parse_hold(format!("HOLD {nonce}\n").as_bytes()), Some(nonce));
        for line in [
            "",
            "HOLD \n",
            "HOLD 01\n",
            &format!("HOLD {nonce}"),
            "HOLD 0123456789abcdef0123456789abcde!\n",
        ] {
            assert_eq!(parse_hold(line.as_bytes()), None);
        }
    }
}
