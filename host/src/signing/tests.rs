use proptest::prelude::*;

use super::*;

/// Made by `openssl genpkey -algorithm ed25519` (OpenSSL 3.0), and nobody's.
const OPENSSL_PRIVATE: &str = "\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINKwmu1xmt7Y5itS8nPzQ6JfxJsWqgI0hT6XPSiE3pr3
-----END PRIVATE KEY-----
";
/// By `openssl pkey -pubout`.
const OPENSSL_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAxQQebJcQOeiHWwctbF2w29hx+ydNnhzE/zlEYCl5JTU=
-----END PUBLIC KEY-----
";
/// By `openssl pkey -pubout -outform der | sha256sum`.
const OPENSSL_ID: &str = "38083e881511e453";
/// By `openssl pkeyutl -sign -rawin` of the domain and the digest of `abc`.
const OPENSSL_SIGNATURE: &str =
    "sS3XIJCdSpcCy9DJrbF0bNNzIOfEa7I7pCejgAjzR3vxJfpU1nUg5giuN5MYMqhfAgRQ5yyzggp38m2TkbmzBg==";

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

fn abc() -> Digest {
    Digest::of(b"abc")
}

fn signed_by(keys: &[u8]) -> Signatures {
    let mut signatures = Signatures::none(abc());
    keys.iter().for_each(|seed| signatures.sign(&key(*seed)).unwrap());
    signatures
}

fn trusting(keys: &[u8]) -> TrustedKeys {
    TrustedKeys::new(keys.iter().map(|seed| key(*seed).public()).collect())
}

/// `signatures` with `from` replaced by `to` in what is written.
fn tampered(signatures: &Signatures, from: &str, to: &str) -> Signatures {
    let text = String::from_utf8(signatures.encode()).unwrap();
    assert!(text.contains(from), "{text}");
    Signatures::decode(text.replace(from, to).as_bytes()).unwrap()
}

#[test]
fn keys_and_signatures_are_those_of_openssl() {
    let private = PrivateKey::from_pem(OPENSSL_PRIVATE).unwrap();
    assert_eq!(*private.to_pem(), OPENSSL_PRIVATE);
    assert_eq!(private.public().to_pem(), OPENSSL_PUBLIC);
    assert_eq!(PublicKey::from_pem(OPENSSL_PUBLIC).unwrap(), private.public());
    assert_eq!(private.public().id().to_string(), OPENSSL_ID);
    let mut signatures = Signatures::none(abc());
    signatures.sign(&private).unwrap();
    let text = String::from_utf8(signatures.encode()).unwrap();
    assert!(text.contains(OPENSSL_SIGNATURE) && text.contains(OPENSSL_ID), "{text}");
}

#[test]
fn one_signature_by_a_trusted_key_is_enough() {
    for keys in [&[1][..], &[2, 1], &[1, 2, 3]] {
        assert_eq!(trusting(&[1, 9]).check(&abc(), &signed_by(keys)), Ok(()), "{keys:?}");
    }
    assert_eq!(trusting(&[]).check(&abc(), &signed_by(&[])), Ok(()), "without trusted keys none is needed");
}

#[test]
fn what_is_missing_is_said() {
    let trusted = trusting(&[1]);
    assert_eq!(trusted.check(&abc(), &signed_by(&[])), Err(Untrusted::Unsigned));
    let others = trusted.check(&abc(), &signed_by(&[2, 3])).unwrap_err();
    for seed in [2, 3] {
        assert!(others.to_string().contains(&key(seed).public().id().to_string()), "{others}");
    }
    // Signed, but another plugin.
    let abd = Digest::of(b"abd");
    let other = tampered(&signed_by(&[1, 2]), &abc().to_string(), &abd.to_string());
    assert_eq!(trusted.check(&abd, &other), Err(Untrusted::Wrong(key(1).public().id())));
    assert_eq!(trusted.check(&abd, &signed_by(&[1])), Err(Untrusted::OtherContents(abc())));
    // Somebody else's signature, under the name of the trusted key.
    let [one, two] = [1, 2].map(|seed| key(seed).public().id().to_string());
    let forged = tampered(&signed_by(&[2]), &two, &one);
    assert_eq!(trusted.check(&abc(), &forged), Err(Untrusted::Wrong(key(1).public().id())));
}

#[test]
fn a_refusal_names_the_plugin_what_is_missing_and_the_fix() {
    let refused = trusting(&[1]).require(&abc(), &signed_by(&[]), || "shout@0.1.0".to_owned(), "shout.wasm");
    let id = key(1).public().id();
    let expected = format!(
        "plugin shout@0.1.0 ({}) may not be used here: it has no signature; [plugins] of the cluster file trusts {id}: \
         `sluicegate plugin sign shout.wasm --key KEY` signs it",
        abc()
    );
    assert_eq!(refused.unwrap_err().to_string(), expected);
}

#[test]
fn a_signature_that_is_wrong_spoils_none_that_is_right() {
    let [one, two] = [1, 2].map(|seed| key(seed).public().id());
    let forged = tampered(&signed_by(&[3]), &key(3).public().id().to_string(), &two.to_string());
    let both = signed_by(&[1]).with(&forged).unwrap();
    let trusted = trusting(&[1, 2]);
    assert_eq!(trusted.check(&abc(), &both), Ok(()));
    let mut signers = trusted.signers(&both);
    signers.sort_by_key(|signer| signer.key != one);
    let expected = [(one, Standing::Trusted), (two, Standing::Wrong)];
    assert_eq!(signers, expected.map(|(key, standing)| Signer { key, standing }));
    assert_eq!(trusting(&[]).signers(&both)[0].standing, Standing::Unknown);
}

#[test]
fn a_signature_is_of_a_plugin_and_of_nothing_else() {
    use ed25519_dalek::{Signer as _, SigningKey};
    // What another program would sign if it signed digests as they are.
    let bare = SigningKey::from_bytes(&[1; 32]).sign(abc().to_string().as_bytes());
    let json = serde_json::json!({
        "format": 1,
        "digest": abc(),
        "signatures": [{
            "key": key(1).public().id(),
            "signature": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bare.to_bytes()),
        }],
    });
    let signatures = Signatures::decode(json.to_string().as_bytes()).unwrap();
    assert_eq!(trusting(&[1]).check(&abc(), &signatures), Err(Untrusted::Wrong(key(1).public().id())));
}

#[test]
fn signatures_are_read_as_they_were_written_and_put_together() {
    let both = signed_by(&[1]).with(&signed_by(&[1, 2])).unwrap();
    assert_eq!(both, signed_by(&[2, 1]));
    assert_eq!(Signatures::decode(&both.encode()), Ok(both.clone()));
    let mut other = Signatures::none(Digest::of(b"other"));
    other.sign(&key(3)).unwrap();
    assert_eq!(both.with(&other), Ok(both), "those of another plugin say nothing of this one");
}

#[test]
fn a_plugin_has_so_many_signatures_and_a_key_one() {
    let many: Vec<u8> = (0..SIGNATURES_MAX as u8).collect();
    let mut full = signed_by(&many);
    full.sign(&key(0)).unwrap();
    assert_eq!(full.sign(&key(200)), Err(SignatureError::Full));
    assert_eq!(Signatures::decode(&full.encode()), Ok(full));
}

#[test]
fn damage_is_an_error_that_says_what_is_wrong() {
    let text = String::from_utf8(signed_by(&[1]).encode()).unwrap();
    let id = key(1).public().id().to_string();
    for (from, to, says) in [
        (id.as_str(), "38", "16 hexadecimal digits"),
        ("\"signature\": \"", "\"signature\": \"A", "64 bytes in Base64"),
        ("sha256:", "sha1:", "is no digest"),
        ("\"format\": 1", "\"format\": 2", "format version 2"),
        ("{", "[", "damaged"),
    ] {
        let error = Signatures::decode(text.replace(from, to).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let long = format!("{text}{}", " ".repeat(64 << 10));
    assert!(Signatures::decode(long.as_bytes()).unwrap_err().to_string().contains("more than"));
}

#[test]
fn a_key_that_is_none_is_refused_with_what_to_do() {
    let private = PrivateKey::from_pem(OPENSSL_PUBLIC).unwrap_err();
    assert_eq!(private, KeyError::Public);
    assert_eq!(PublicKey::from_pem(OPENSSL_PRIVATE).unwrap_err(), KeyError::Private);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert_eq!(PrivateKey::from_pem(encrypted).unwrap_err(), KeyError::Encrypted);
    // An elliptic curve, but another one.
    let other = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEAxQQebJcQOeiHWwctbF2w29hx+ydNnhzE/zlEYCl5JTU=\n-----END PUBLIC KEY-----\n";
    assert_eq!(PublicKey::from_pem(other).unwrap_err(), KeyError::NoKey);
    for nothing in ["", "hunter2", "-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----\n"] {
        assert_eq!(PublicKey::from_pem(nothing).unwrap_err(), KeyError::NoKey);
        assert!(PrivateKey::from_pem(nothing).is_err());
    }
    // The neutral element: signatures of everything by everybody.
    let weak = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n";
    assert_eq!(PublicKey::from_pem(weak).unwrap_err(), KeyError::Weak);
}

#[test]
fn debug_shows_no_private_key() {
    let shown = format!("{:?}", PrivateKey::from_pem(OPENSSL_PRIVATE).unwrap());
    assert_eq!(shown, format!("PrivateKey({OPENSSL_ID})"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic_the_readers(bytes in any::<Vec<u8>>(), text in any::<String>()) {
        let _ = Signatures::decode(&bytes);
        let _ = PublicKey::from_pem(&text);
        let _ = PrivateKey::from_pem(&text);
    }

    #[test]
    fn every_change_of_a_byte_is_noticed(at in any::<prop::sample::Index>(), by in 1_u8..) {
        let mut bytes = signed_by(&[1]).encode();
        let signature = OPENSSL_SIGNATURE.len();
        let begin = bytes.windows(13).position(|window| window == b"\"signature\": ").unwrap() + 14;
        bytes[begin + at.index(signature)] ^= by;
        match Signatures::decode(&bytes) {
            Err(_) => {}
            Ok(read) => prop_assert_eq!(trusting(&[1]).check(&abc(), &read), Err(Untrusted::Wrong(key(1).public().id()))),
        }
    }
}
