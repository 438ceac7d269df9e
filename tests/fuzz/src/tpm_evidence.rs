//! Quotes and certificates of endorsement keys.

use crate::input::{Input, sized};
use husk_evidence::{AttestationKey, EkAuthorities, EkCertificate, Quote, QuoteSignature};
use std::sync::OnceLock;

/// Some day of 2027.
const NOW: u64 = 1_800_000_000;

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../../data/tpm/", $name)).as_slice()
    };
}

/// The files of an honest quote: message, signature, key, PCR values.
type Files = [&'static [u8]; 4];

const HONEST: [Files; 3] = [
    [golden!("rsassa.quote"), golden!("rsassa.signature"), golden!("rsassa.ak"), golden!("rsassa.pcrs")],
    [golden!("p256.quote"), golden!("p256.signature"), golden!("p256.ak"), golden!("p256.pcrs")],
    [golden!("p384.quote"), golden!("p384.signature"), golden!("p384.ak"), golden!("p384.pcrs")],
];

/// Which honest quote, then changes: in which file, where, to what. Or the four files themselves.
pub(crate) fn quote(data: &[u8]) {
    let mut input = Input::new(data);
    let which = input.byte();
    let Some(honest) = HONEST.get(usize::from(which)) else {
        let files = [(); 4].map(|()| input.sized().to_vec());
        judge(&files, None);
        return;
    };
    let mut files = honest.map(<[u8]>::to_vec);
    while !input.is_over() {
        let file = &mut files[input.below(4)];
        let (at, bytes) = (usize::from(input.short()) % (file.len() + 1), input.sized());
        let kept = bytes.len().min(file.len() - at);
        file[at..at + kept].copy_from_slice(&bytes[..kept]);
        file.extend(&bytes[kept..]);
    }
    judge(&files, Some(honest));
}

/// What verifies under the honest key is the honest quote.
fn judge(files: &[Vec<u8>; 4], honest: Option<&Files>) {
    let [quote, signature, key, pcrs] = files;
    let (Ok(quote), Ok(signature), Ok(key)) =
        (Quote::parse(quote), QuoteSignature::parse(signature), AttestationKey::parse(key))
    else {
        return;
    };
    let Ok(verified) = quote.verify(&signature, &key) else { return };
    let values = verified.pcrs(pcrs).ok();
    if let Some(honest) = honest.filter(|honest| honest[2] == files[2]) {
        assert_eq!(files[0], honest[0], "the signature holds for something else");
        let plain: Vec<u8> = values.into_iter().flatten().flat_map(|value| value.value).collect();
        let shown = files[3] == honest[3] || files[3] == plain || plain.is_empty();
        assert!(shown, "values that were not quoted");
    }
}

pub(crate) fn quote_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..3).map(|which| vec![which]).collect();
    for files in HONEST {
        seeds.push([&[255][..], &files.map(sized).concat()].concat());
    }
    let change =
        |file: u8, at: u16, bytes: &[u8]| [&[0, file][..], &at.to_le_bytes(), &sized(bytes)].concat();
    // Type, length of a name, count of banks; scheme, hash, length; attributes, scheme; count of values.
    for (file, at) in [(0, 4), (0, 6), (0, 72), (1, 0), (1, 2), (1, 4), (2, 6), (2, 14), (3, 132)] {
        seeds.push(change(file, at, &[1, 0]));
    }
    seeds
}

/// An endorsement key's certificate in DER, bare or as changes of one that holds.
pub(crate) fn certificate(data: &[u8]) {
    const HONEST: [&[u8]; 3] = [golden!("ek-rsa2048.der"), golden!("ek-p256.der"), golden!("ek-p384.der")];
    static AUTHORITIES: OnceLock<EkAuthorities> = OnceLock::new();
    let authorities = AUTHORITIES.get_or_init(|| {
        let authorities = EkAuthorities::new(golden!("root.pem")).unwrap();
        authorities.with_intermediates(golden!("issuer.pem")).unwrap()
    });
    let mut input = Input::new(data);
    let which = input.byte();
    let der = match HONEST.get(usize::from(which)) {
        None => input.rest().to_vec(),
        Some(honest) => {
            let mut der = honest.to_vec();
            while !input.is_over() {
                let (at, bytes) = (usize::from(input.short()) % der.len(), input.sized());
                der[at..].iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            }
            der
        }
    };
    if let Ok(said) = EkCertificate::parse(&der) {
        assert!(!said.model.is_empty() && !said.kind().is_empty());
    }
    if authorities.verify(&der, NOW).is_ok() {
        assert!(HONEST.contains(&&der[..]), "a certificate that nobody signed");
    }
    EkAuthorities::new(&der).and_then(|authorities| authorities.verify(HONEST[0], NOW)).ok();
}

pub(crate) fn certificate_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..3).map(|which| vec![which]).collect();
    for der in [golden!("ek-rsa2048.der"), golden!("ek-p256.der"), golden!("ek-p384.der")] {
        seeds.push([&[255], der].concat());
    }
    seeds.push([&[255], golden!("root.pem")].concat());
    for at in (0..900_u16).step_by(37) {
        seeds.push([&[(at % 3) as u8][..], &at.to_le_bytes(), &sized(&[0x30, 1])].concat());
    }
    seeds
}
