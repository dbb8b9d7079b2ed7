//! Pseudo terminals (pty(7)).

use std::os::fd::IntoRawFd as _;

use napi_derive::napi;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use crate::error::{Result, failed};

nix::ioctl_read_bad!(
    /// TIOCGWINSZ of ioctl_tty(2).
    get_size,
    libc::TIOCGWINSZ,
    libc::winsize
);
nix::ioctl_write_ptr_bad!(
    /// TIOCSWINSZ of ioctl_tty(2).
    set_size,
    libc::TIOCSWINSZ,
    libc::winsize
);

/// A new pseudo terminal.
#[napi(object, object_from_js = false)]
pub struct Pty {
    /// Descriptor of its master, close-on-exec, and the caller's.
    pub master: i32,
    /// Path of its slave.
    pub slave_path: String,
}

/// The size of a terminal in characters.
#[napi(object)]
pub struct WindowSize {
    /// Characters in a row.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// Makes a pseudo terminal in raw mode: what it is for has another terminal behind it, in the guest.
#[napi]
pub fn open_pty() -> Result<Pty> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).map_err(|errno| failed("open \"/dev/ptmx\"", errno))?;
    grantpt(&master).map_err(|errno| failed("grantpt", errno))?;
    unlockpt(&master).map_err(|errno| failed("unlockpt", errno))?;
    let slave_path = ptsname_r(&master).map_err(|errno| failed("ptsname", errno))?;
    let mut settings = tcgetattr(&master).map_err(|errno| failed("tcgetattr", errno))?;
    cfmakeraw(&mut settings);
    tcsetattr(&master, SetArg::TCSANOW, &settings).map_err(|errno| failed("tcsetattr", errno))?;
    Ok(Pty {
        master: master.into_raw_fd(),
        slave_path,
    })
}

/// The size of the terminal `fd`, 0 where it was never set.
#[napi]
pub fn get_window_size(fd: i32) -> Result<WindowSize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is a winsize that lives through the call; a descriptor that is none gives an error.
    unsafe { get_size(fd, &raw mut size) }.map_err(|errno| failed("ioctl TIOCGWINSZ", errno))?;
    Ok(WindowSize {
        columns: size.ws_col,
        rows: size.ws_row,
    })
}

/// Sets the size of the terminal `fd`; its foreground processes get SIGWINCH.
#[napi]
pub fn set_window_size(fd: i32, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is a winsize that lives through the call; a descriptor that is none gives an error.
    unsafe { set_size(fd, &raw const size) }.map_err(|errno| failed("ioctl TIOCSWINSZ", errno))?;
    Ok(())
}
