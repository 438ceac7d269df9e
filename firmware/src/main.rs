//! The image's entry; on a host it only says what it is.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use husk_firmware as _;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("husk-image is an image for bare metal: build it with `cargo xtask image`");
}
