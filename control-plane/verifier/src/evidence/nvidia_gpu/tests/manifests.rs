//! Manifests: which one is taken, who signed it, and what is compared.

use super::maker::{DRIVER, VBIOS};
use super::*;

fn gpu(change: impl FnOnce(&mut Maker)) -> Maker {
    Maker::gpu().with(change)
}

/// A GPU with another manifest of its driver.
fn driver(change: impl FnOnce(&mut RimMaker)) -> Maker {
    gpu(|gpu| change(&mut gpu.rims[0]))
}

/// A GPU whose driver's manifest was edited after it was signed.
fn edited(edit: fn(String) -> String) -> Maker {
    driver(|rim| rim.edit = edit)
}

#[test]
fn manifest_of_each_part_is_needed() {
    lacks("rim_missing", &gpu(|gpu| gpu.rims.clear()));
    lacks("rim_missing", &gpu(|gpu| drop(gpu.rims.pop())));
    lacks("rim_missing", &gpu(|gpu| drop(gpu.rims.remove(0))));
    let cached = |gpu: &mut Maker| gpu.cached_rims.append(&mut gpu.rims);
    affirms(&gpu(cached));
    // A driver that the report does not name can't be looked up.
    refuses("version_missing", &gpu(|gpu| gpu.without(3)));
    refuses("version_missing", &gpu(|gpu| gpu.set(3, b"570\x07.1\0")));
    refuses("version_missing", &gpu(|gpu| gpu.without(6)));
}

#[test]
fn manifest_is_that_of_the_very_version_and_chip() {
    let other = "rim_of_other_version";
    refuses(other, &driver(|rim| rim.version = "570.2".into()));
    refuses(other, &driver(|rim| rim.product = "GB100"));
    refuses(other, &driver(|rim| rim.edition = "SWITCH"));
    refuses(other, &gpu(|gpu| gpu.set(3, b"570.2\0")));
    refuses(
        other,
        &gpu(|gpu| gpu.set(6, &[0, 0x9f, 0, 0x96, 2, 0, 0, 0])),
    );
    // Others in a cache are of other machines.
    let old = |gpu: &mut Maker| {
        gpu.cached_rims = vec![RimMaker::new("570.2", &[(0, "True", &[7])])];
    };
    affirms(&gpu(old));
    lacks(
        "rim_missing",
        &gpu(|gpu| {
            old(gpu);
            drop(gpu.rims.remove(0));
        }),
    );
}

#[test]
fn of_several_manifests_of_one_version_that_of_the_board_is_taken() {
    let of_other_board = || RimMaker::new(VBIOS, &[(1, "True", &[7])]);
    affirms(&gpu(|gpu| gpu.rims.push(of_other_board())));
    affirms(&gpu(|gpu| gpu.rims.insert(0, of_other_board())));
    affirms(&gpu(|gpu| gpu.cached_rims.push(of_other_board())));
    refuses(
        "measurement_mismatch",
        &gpu(|gpu| gpu.rims[1] = of_other_board()),
    );
}

#[test]
fn manifest_is_signed_by_nvidia() {
    let made = Maker::gpu().make();
    let roots = Roots {
        device: &made.root,
        rim: &made.chain[0],
    };
    let judgement = made.judge(&Maker::gpu(), roots);
    assert_eq!(judgement.reason, "rim_root_not_pinned");
    refuses("rim_chain", &driver(|rim| rim.signer_is_of_other = true));
    let alone = |text: String| {
        let (start, last) = text.rsplit_once("<ds:X509Certificate>").unwrap();
        let (_, end) = last.split_once("</ds:X509Certificate>").unwrap();
        format!("{start}{end}")
    };
    refuses("rim_chain", &edited(alone));
    refuses("rim_certificate_expired", &driver(|rim| rim.until = 1999));
    refuses("rim_signature", &driver(|rim| rim.by_other = true));
    let debug = |rim: &mut RimMaker| rim.signer_name = "L4 Signer Debug Only";
    refuses("rim_debug", &driver(debug));
}

#[test]
fn edited_manifest_is_refused() {
    let replace = |text: String| text.replacen("name=\"m\"", "name=\"n\"", 1);
    refuses("rim_digest", &edited(replace));
    refuses(
        "rim_digest",
        &edited(|text| text.replacen(&"01".repeat(48), &"02".repeat(48), 1)),
    );
    refuses(
        "rim_digest",
        &edited(|text| text.replacen("active=\"False\"", "active=\"True\"", 1)),
    );
    // What a canonical form leaves out may differ.
    affirms(&edited(|text| {
        text.replacen("<Payload>", "<Payload ><!-- c -->", 1)
    }));
    affirms(&edited(|text| format!("<?xml version=\"1.0\"?>\n{text}\n")));
}

#[test]
fn signature_that_covers_something_else_is_refused() {
    let wrong = |edit: fn(String) -> String| refuses("rim_signature", &edited(edit));
    wrong(|text| text.replacen("URI=\"\"", "URI=\"#a\"", 1));
    wrong(|text| text.replacen("URI=\"\"", "", 1));
    wrong(|text| {
        text.replacen(
            "xml-c14n11\"/><ds:SignatureMethod",
            "c14n\"/><ds:SignatureMethod",
            1,
        )
    });
    wrong(|text| text.replacen("ecdsa-sha384", "hmac-sha384", 1));
    wrong(|text| text.replacen("more#sha384", "more#sha1", 1));
    wrong(|text| text.replacen("#enveloped-signature", "#base64", 1));
    // A transform with a parameter, a second reference, an object that could hold another payload.
    wrong(|text| {
        text.replacen(
            "#enveloped-signature\"/>",
            "#enveloped-signature\"><ds:XPath>1</ds:XPath></ds:Transform>",
            1,
        )
    });
    wrong(|text| {
        let reference =
            &text[text.find("<ds:Reference").unwrap()..text.find("</ds:SignedInfo").unwrap()];
        text.replacen(reference, &reference.repeat(2), 1)
    });
    wrong(|text| text.replacen("</ds:Signature>", "<ds:Object/></ds:Signature>", 1));
    wrong(|text| text.replacen("<ds:X509Data>", "<ds:KeyName/><ds:X509Data>", 1));
    wrong(|text| text.replacen("<ds:X509Data>", "<ds:X509Data><ds:X509CRL/>", 1));
}

#[test]
fn signature_that_was_moved_or_doubled_is_refused() {
    refuses(
        "rim_signature",
        &edited(|text| {
            let (begin, end) = bounds(&text);
            format!("{}{}{}", &text[..end], &text[begin..end], &text[end..])
        }),
    );
    refuses(
        "rim_signature",
        &edited(|text| {
            let (begin, end) = bounds(&text);
            format!("{}{}", &text[..begin], &text[end..])
        }),
    );
    // Wrapped: the signed document inside of one that says something else.
    refuses(
        "rim_malformed",
        &edited(|text| {
            let forged = text.replace(&"01".repeat(48), &"07".repeat(48));
            let (begin, end) = bounds(&forged);
            format!("{}{text}{}", &forged[..begin], &forged[end..])
                .replacen("<Payload>", "<Wrapper><Payload>", 1)
                .replacen("</Payload>", "</Payload></Wrapper>", 1)
        }),
    );
    refuses(
        "rim_signature",
        &edited(|text| {
            let (begin, _) = bounds(&text);
            format!(
                "{}<Outer>{}</Outer></SoftwareIdentity>",
                &text[..begin],
                text
            )
        }),
    );
}

/// Where the signature lies.
fn bounds(text: &str) -> (usize, usize) {
    let begin = text.find("<ds:Signature ").unwrap();
    let end = text.find("</ds:Signature>").unwrap() + "</ds:Signature>".len();
    (begin, end)
}

#[test]
fn document_that_is_no_manifest_is_refused() {
    let malformed = |edit: fn(String) -> String| refuses("rim_malformed", &edited(edit));
    malformed(|_| "<a/>".into());
    malformed(|text| text.replacen("SoftwareIdentity", "Identity", 1));
    malformed(|text| text.replace("<Meta ", "<Beta "));
    malformed(|text| text.replacen("colloquialVersion", "version", 1));
    malformed(|text| text.replacen("product=\"GH100\"", "product=\"\"", 1));
    malformed(|text| text.replacen("edition=", "issue=", 1));
    malformed(|text| text.replacen("type=\"Measurement\"", "type=\"File\"", 1));
    malformed(|text| text.replacen("index=\"2\"", "index=\"0\"", 1));
    malformed(|text| text.replacen("index=\"2\"", "index=\"256\"", 1));
    malformed(|text| text.replacen("active=\"True\"", "active=\"true\"", 1));
    malformed(|text| text.replacen("alternatives=\"2\"", "alternatives=\"3\"", 1));
    malformed(|text| text.replacen("alternatives=\"2\"", "alternatives=\"0\"", 1));
    malformed(|text| text.replacen("size=\"48\"", "size=\"32\"", 1));
    malformed(|text| text.replacen("h:Hash0", "Hash0", 1));
    malformed(|text| text.replacen(&"09".repeat(48), &"09".repeat(47), 1));
    malformed(|text| text.replacen("<Payload>", "<!DOCTYPE a><Payload>", 1));
    malformed(|text| text.replacen("</Payload>", "</Payload><Payload/>", 1));
}

#[test]
fn measurements_are_compared_by_index() {
    let mismatch = |change: fn(&mut Maker)| refuses("measurement_mismatch", &gpu(change));
    mismatch(|gpu| gpu.measurements[0].1 = vec![8; 48]);
    mismatch(|gpu| gpu.measurements[1].1 = vec![7; 48]);
    mismatch(|gpu| gpu.measurements[1].1 = vec![2; 32]);
    mismatch(|gpu| {
        gpu.measurements.remove(1);
        gpu.blocks = 2;
    });
    // One of several values, and one that is not active.
    affirms(&gpu(|gpu| gpu.measurements[0].1 = vec![9; 48]));
    affirms(&gpu(|gpu| gpu.measurements[2].1 = vec![7; 48]));
    mismatch(|gpu| {
        gpu.rims = vec![
            RimMaker::new(DRIVER, &[(0, "False", &[1])]),
            RimMaker::new(VBIOS, &[(1, "False", &[2])]),
        ];
    });
}

#[test]
fn index_that_both_manifests_claim_is_refused() {
    let both = |gpu: &mut Maker| gpu.rims[1] = RimMaker::new(VBIOS, &[(0, "True", &[1])]);
    refuses("rim_overlap", &gpu(both));
    let inactive = |gpu: &mut Maker| {
        gpu.rims[1] = RimMaker::new(VBIOS, &[(1, "True", &[2]), (0, "False", &[1])]);
    };
    affirms(&gpu(inactive));
}

#[test]
fn decoder_that_is_off_is_not_compared() {
    let decoder = |status: Option<u8>| {
        gpu(|gpu| {
            match status {
                Some(status) => gpu.set(11, &[status]),
                None => gpu.without(11),
            }
            gpu.measurements.push((36, vec![0; 48]));
            gpu.blocks = 4;
            gpu.rims[1] = RimMaker::new(VBIOS, &[(1, "True", &[2]), (35, "True", &[5])]);
        })
    };
    affirms(&decoder(Some(0x55)));
    refuses("measurement_mismatch", &decoder(Some(0xaa)));
    refuses("measurement_mismatch", &decoder(None));
}

/// Upstream's samples of payloads, which are named by how they must be read; they are not signed and mostly no whole
/// manifests.
#[test]
fn payloads_of_upstreams_samples_are_read_as_their_names_say() {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nvidia/rim-parse-failures");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "case" {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        assert!(Rim::parse(&bytes).is_err(), "{name}");
        let root = xml::Element::parse(&bytes).unwrap();
        let values = rim::payload(&root);
        let about_payload = !["meta", "colloquial", "x509", "cert", "pem"]
            .iter()
            .any(|part| name.contains(part));
        if name == "success_payload_multiple_measurements" {
            // Its digests are words, which no measurement can be.
            assert_eq!(values.unwrap_err(), rim::RimError::Resource("size"));
        } else if name.starts_with("success") {
            assert!(!values.unwrap().0.is_empty(), "{name}");
            read += 1;
        } else if about_payload {
            assert!(values.is_err(), "{name}");
            read += 1;
        }
    }
    assert!(read > 10, "{read}");
}
