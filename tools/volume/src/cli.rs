//! The command `husk volume`.

use crate::survey::{AreaSurvey, HeadSurvey, Survey, survey};
use anyhow::Context as _;
use husk::release::HEAD_DIGEST_BYTES;
use husk::release::hw_sealed::Permit;
use husk::volume::blocks::DISK_BYTES_MAX;
use husk::volume::layout::VOLUME_BYTES_MAX;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes as _;

/// `husk volume`
#[derive(clap::Subcommand, Debug)]
pub enum VolumeCommand {
    /// Make a blank volume for a VM that was just enrolled. Never touches a file that exists.
    Create(CreateArgs),
    /// Show what a volume says of itself. Needs no key, proves nothing.
    Inspect(InspectArgs),
    /// Tell whether an image contains the state that the broker remembers.
    Verify(VerifyArgs),
}

/// `husk volume create`
#[derive(clap::Args, Debug)]
pub struct CreateArgs {
    /// The new file.
    #[arg(value_name = "VOLUME")]
    image: PathBuf,
    /// Put this permit on it, as `husk tenant permit` wrote it: a TPM is made on the volume without a broker, and WITHOUT
    /// protection against rollback.
    #[arg(long, value_name = "FILE")]
    permit: Option<PathBuf>,
}

/// `husk volume inspect`
#[derive(clap::Args, Debug)]
pub struct InspectArgs {
    /// The volume: a file or a block device.
    #[arg(value_name = "VOLUME")]
    image: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// `husk volume verify`
#[derive(clap::Args, Debug)]
pub struct VerifyArgs {
    /// The volume: a file or a block device.
    #[arg(value_name = "VOLUME")]
    image: PathBuf,
    /// The head that the broker remembers, as `husk vm show` prints it.
    #[arg(long, value_name = "SEQUENCE:DIGEST", value_parser = head)]
    head: HeadSurvey,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

fn head(text: &str) -> Result<HeadSurvey, String> {
    let wanted = || "a head is a number, a colon and 96 hexadecimal digits".to_owned();
    let (sequence, digest) = text.split_once(':').ok_or_else(wanted)?;
    let sequence = sequence.parse().map_err(|_| wanted())?;
    let bytes = hex::decode(digest).map_err(|_| wanted())?;
    if bytes.len() != HEAD_DIGEST_BYTES {
        return Err(wanted());
    }
    Ok(HeadSurvey { sequence, digest: hex::encode(bytes) })
}

impl VolumeCommand {
    /// Does it.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Create(args) => create(args),
            Self::Inspect(args) => inspect(args),
            Self::Verify(args) => verify(args),
        }
    }
}

/// A volume of zeros is blank: only a signed grant to create makes a TPM of it. It has room for a UEFI firmware's variables.
fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let path = args.image.display();
    let permit = args.permit.as_deref().map(permit).transpose()?;
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .open(&args.image)
        .with_context(|| format!("cannot make {path}; a file that exists is never overwritten"))?;
    let front = permit.as_ref().map_or(&[][..], |permit| permit.as_bytes());
    let sized =
        file.write_all(front).and_then(|()| file.set_len(DISK_BYTES_MAX)).and_then(|()| file.sync_all());
    sized.with_context(|| format!("cannot give {path} its {DISK_BYTES_MAX} bytes; check the space left"))?;
    match permit {
        None => println!("{path}: blank, {DISK_BYTES_MAX} bytes"),
        Some(_) => println!("{path}: a permit for HW-SEALED, {DISK_BYTES_MAX} bytes. {NO_PROTECTION}"),
    }
    Ok(())
}

/// What every look at such a volume says.
const NO_PROTECTION: &str =
    "No broker remembers its newest state: whoever keeps an old copy can put it back.";

/// Reads a permit; whether it holds the VM decides.
fn permit(path: &Path) -> anyhow::Result<Permit> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| path.display().to_string())?;
    file.take(Permit::BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let permit = Permit::read(&bytes).filter(|_| bytes.len() == Permit::BYTES);
    permit.with_context(|| format!("{} is no permit; `husk tenant permit` writes one", path.display()))
}

fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let seen = read(&args.image)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&seen)?);
    } else {
        print!("{}", text(&seen));
    }
    Ok(())
}

fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let seen = read(&args.image)?;
    let contained = seen.contains(&args.head);
    if args.json {
        let newest = seen.newest();
        let result = serde_json::json!({ "contained": contained, "newest": newest, "head": args.head });
        println!("{result:#}");
    }
    if contained {
        if !args.json {
            println!(
                "the image contains state {}; only the VM can tell that it is authentic",
                args.head.sequence
            );
        }
        return Ok(());
    }
    let wanted = args.head.sequence;
    match seen.newest().map(|newest| newest.sequence) {
        None => anyhow::bail!("{}: there is no volume here: attach the VM's own disk", args.image.display()),
        Some(newest) if newest < wanted => anyhow::bail!(
            "{}: state {wanted} is not here, the newest is {newest}: this is an older copy, or damaged after {newest}",
            args.image.display()
        ),
        Some(_) => anyhow::bail!(
            "{}: state {wanted} with that digest is not here: this is another VM's disk, another history, or damaged",
            args.image.display()
        ),
    }
}

/// Reads the beginning of a file or device and surveys it.
fn read(path: &Path) -> anyhow::Result<Survey> {
    let name = || path.display().to_string();
    let mut file = File::open(path).with_context(name)?;
    let size = file.seek(SeekFrom::End(0)).with_context(name)?;
    file.rewind().with_context(name)?;
    let mut image = Vec::new();
    file.take(VOLUME_BYTES_MAX).read_to_end(&mut image).with_context(name)?;
    survey(&image, size).with_context(name)
}

fn text(seen: &Survey) -> String {
    let mut out = String::new();
    if seen.is_unsealed() {
        out += "WARNING: this volume is UNSEALED FOR TESTING: anyone can read and change it.\n";
    }
    if seen.is_hw_sealed() {
        out += &format!("WARNING: this volume is HW-SEALED. {NO_PROTECTION}\n");
    }
    for area in &seen.areas {
        out += &area_text(area, seen.area_bytes);
    }
    match seen.newest() {
        Some(newest) => out += &format!("newest {}:{}\n", newest.sequence, newest.digest),
        None => out += "newest none: there is no volume here\n",
    }
    out + "Headers are in clear and prove nothing: only the VM, with its key and the broker's head, can tell.\n"
}

fn area_text(area: &AreaSurvey, area_bytes: usize) -> String {
    let Some(header) = &area.checkpoint else {
        return format!("area {}: {}\n", area.area, area.content);
    };
    format!(
        "area {}: {}, {}, {} of {area_bytes} bytes used\n  \
         tenant {} vm {} generation {}\n  \
         epoch {} token {} engine {}\n  \
         checkpoint {} ({} bytes, unit {}), {} records after it\n",
        area.area,
        area.content,
        header.mode,
        area.used_bytes,
        header.tenant,
        header.vm,
        header.generation,
        header.epoch,
        header.token,
        header.engine,
        header.sequence,
        header.checkpoint_bytes,
        header.unit_bytes,
        area.chain.len().saturating_sub(1),
    )
}

#[cfg(test)]
mod tests {
    use super::{VerifyArgs, head, read, text, verify};
    use std::path::PathBuf;

    fn golden() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/volume-unsealed-512.bin")
    }

    #[test]
    fn an_unsealed_volume_is_called_one_first() {
        let shown = text(&read(&golden()).expect("the golden volume"));
        assert!(shown.starts_with("WARNING: this volume is UNSEALED FOR TESTING"), "{shown}");
        assert!(shown.contains("3 records after it"), "{shown}");
    }

    #[test]
    fn verify_tells_older_copies_from_other_histories() {
        let newest = read(&golden()).expect("golden").newest().expect("a chain").clone();
        let ask =
            |head| verify(&VerifyArgs { image: golden(), head, json: false }).map_err(|e| e.to_string());
        assert_eq!(ask(newest.clone()), Ok(()));
        let mut later = newest.clone();
        later.sequence += 1;
        assert!(ask(later).expect_err("older copy").contains("older copy"));
        let mut other = newest;
        other.digest = "00".repeat(48);
        assert!(ask(other).expect_err("other history").contains("another history"));
    }

    #[test]
    fn a_head_is_a_number_and_a_whole_digest() {
        let digest = "Ab".repeat(48);
        assert_eq!(head(&format!("7:{digest}")).map(|head| head.sequence), Ok(7));
        for text in ["", "7", "7:", "x:00", &format!("7:{}", &digest[2..]), &format!("-1:{digest}")] {
            assert!(head(text).is_err(), "{text}");
        }
    }
}
