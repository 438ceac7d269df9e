//! Links the image by `image.ld`, where the target is bare metal.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=image.ld");
    let bare_metal = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if let (true, Ok(folder)) = (bare_metal, env::var("CARGO_MANIFEST_DIR")) {
        for argument in
            [format!("-T{folder}/image.ld"), "--build-id=none".into(), "-z".into(), "norelro".into()]
        {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
