//! One kind of machine at a time: an honest one is admitted with what it proved, and one with a single thing wrong is
//! refused for that.

use vouchsafe_tests::configfs::Configfs;
use vouchsafe_tests::factory::{Factory, offline};
use vouchsafe_tests::vendor::Vendors;
use vouchsafe_tests::vendor::amd::Guest;
use vouchsafe_tests::vendor::intel::{TCB_INFO, TrustDomain};

use super::{Azure, CHIP, GOOD, PPID, devices, documents, snp, soon, tdx, unix_ms};

const DAY: u64 = 86_400;

#[test]
fn a_guest_of_sev_snp_is_admitted_with_what_its_chip_signed() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let factory = Factory::start(&documents(), vendors.roots(), offline());
    let (_guest, attester) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let (_sidecar, identity) = factory.admitted("snp", "dev/snp", &attester);
    let result = &identity["attestation_result"];
    assert_eq!(result["class"], "hardware", "{identity}");
    assert_eq!(result["root"], "sev_snp");
    let [device] = devices(&identity) else {
        panic!("one device: {identity}")
    };
    assert_eq!(device["claims"]["image"], "llm-11");
    assert_eq!(device["claims"]["chip_id"], vendors.amd.chip(CHIP).id());
}

#[test]
fn a_guest_of_sev_snp_with_one_thing_wrong_is_refused_for_it() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let factory = Factory::start(&documents(), vendors.roots(), offline());
    let amd = &vendors.amd;
    let good = Guest::of(GOOD);
    for (reason, chip, guest) in [
        ("image", amd.chip(CHIP), Guest::of(0xab)),
        (
            "debug_enabled",
            amd.chip(CHIP),
            Guest {
                debug: true,
                ..good
            },
        ),
        ("vmpl", amd.chip(CHIP), Guest { vmpl: 1, ..good }),
        ("not_a_member", amd.chip(8), good),
        ("ask_signature", Vendors::new().amd.chip(CHIP), good),
        (
            "endorsement_missing",
            amd.chip(CHIP),
            Guest {
                has_certificates: false,
                ..good
            },
        ),
    ] {
        let (_guest, attester) = snp(&chip, guest);
        let (found, detail) = factory.refused(reason, "dev/snp", &attester);
        assert_eq!(found, reason, "{detail}");
    }
}

#[test]
fn a_trust_domain_is_admitted_by_what_intels_service_says() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * DAY));
    let factory = Factory::start(&documents(), vendors.roots(), service.sources());
    let processor = vendors.intel.processor(PPID, soon(90 * DAY));
    let (_guest, attester) = tdx(&processor, TrustDomain::of(GOOD));
    let (_sidecar, identity) = factory.admitted("tdx", "dev/tdx", &attester);
    let [device] = devices(&identity) else {
        panic!("one device: {identity}")
    };
    assert_eq!(device["claims"]["image"], "llm-11");
    assert_eq!(device["claims"]["tcb_status"], "UpToDate");
    assert_eq!(device["claims"]["ppid"], processor.ppid());

    let good = TrustDomain::of(GOOD);
    let other = vendors.intel.processor(6, soon(90 * DAY));
    let nobodys = Vendors::new().intel.processor(PPID, soon(90 * DAY));
    for (reason, processor, domain) in [
        ("image", &processor, TrustDomain::of(0xab)),
        (
            "debug_enabled",
            &processor,
            TrustDomain {
                debug: true,
                ..good
            },
        ),
        (
            "tcb_out_of_date",
            &processor,
            TrustDomain {
                module_version: 3,
                ..good
            },
        ),
        ("not_a_member", &other, good),
        ("root_not_pinned", &nobodys, good),
    ] {
        let (_guest, attester) = tdx(processor, domain);
        let (found, detail) = factory.refused(reason, "dev/tdx", &attester);
        assert_eq!(found, reason, "{detail}");
    }
    // What is the same for all machines was asked for once.
    assert_eq!(service.count(TCB_INFO), 1);
}

#[test]
fn a_confidential_vm_of_azure_is_admitted_through_its_vtpm() {
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * DAY));
    let factory = Factory::start(&documents(), vendors.roots(), service.sources());
    let azure = Azure::snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let (_sidecar, identity) = factory.admitted("azure-snp", "dev/azure", &azure.attester);
    assert_eq!(identity["attestation_result"]["root"], "az_snp_vtpm");
    let [device] = devices(&identity) else {
        panic!("one device: {identity}")
    };
    assert_eq!(device["claims"]["chip_id"], vendors.amd.chip(CHIP).id());

    let processor = vendors.intel.processor(PPID, soon(90 * DAY));
    let azure = Azure::tdx(&processor, TrustDomain::of(GOOD));
    let (_sidecar, identity) = factory.admitted("azure-tdx", "dev/azure", &azure.attester);
    assert_eq!(identity["attestation_result"]["root"], "az_tdx_vtpm");
    assert_eq!(devices(&identity)[0]["claims"]["ppid"], processor.ppid());

    let good = Guest::of(GOOD);
    for (reason, azure) in [
        (
            "image",
            Azure::snp(&vendors.amd.chip(CHIP), Guest::of(0xab)),
        ),
        (
            "debug_enabled",
            Azure::snp(
                &vendors.amd.chip(CHIP),
                Guest {
                    debug: true,
                    ..good
                },
            ),
        ),
        ("not_a_member", Azure::snp(&vendors.amd.chip(8), good)),
        (
            "debug_enabled",
            Azure::tdx(
                &processor,
                TrustDomain {
                    debug: true,
                    ..TrustDomain::of(GOOD)
                },
            ),
        ),
        (
            "not_a_member",
            Azure::tdx(
                &vendors.intel.processor(6, soon(90 * DAY)),
                TrustDomain::of(GOOD),
            ),
        ),
    ] {
        let (found, detail) = factory.refused(reason, "dev/azure", &azure.attester);
        assert_eq!(found, reason, "{detail}");
    }
}

#[test]
fn an_enclave_is_admitted_and_one_with_one_thing_wrong_is_refused_for_it() {
    let vendors = Vendors::new();
    let factory = Factory::start(&documents(), vendors.roots(), offline());
    let attester = |module: &vouchsafe_tests::vendor::aws::Module| {
        format!("{{nitro: {{device: {}}}}}", module.path().display())
    };
    let module = vendors.aws.enclave(GOOD, soon(3 * 3600)).module();
    let (_sidecar, identity) = factory.admitted("enclave", "dev/enclave", &attester(&module));
    assert_eq!(identity["attestation_result"]["root"], "nitro");
    assert_eq!(devices(&identity)[0]["claims"]["image"], "enclave");
    for (reason, enclave) in [
        ("image", vendors.aws.enclave(0xab, soon(3 * 3600))),
        ("debug_enabled", vendors.aws.enclave(0, soon(3 * 3600))),
        (
            "root_not_pinned",
            Vendors::new().aws.enclave(GOOD, soon(3 * 3600)),
        ),
    ] {
        let module = enclave.module();
        let (found, detail) = factory.refused(reason, "dev/enclave", &attester(&module));
        assert_eq!(found, reason, "{detail}");
    }
}

/// The chain inside evidence ends sooner than any certificate would: an enclave's lives three hours.
#[test]
fn no_certificate_outlives_the_chain_inside_its_evidence() {
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * DAY));
    let factory = Factory::start(&documents(), vendors.roots(), service.sources());
    let ends = |workload: &str| {
        let issued = factory.last_issuance(workload);
        issued["not_after"].as_u64().expect("it has an end")
    };
    let until = soon(900);
    let module = vendors.aws.enclave(GOOD, until).module();
    let attester = format!("{{nitro: {{device: {}}}}}", module.path().display());
    let _enclave = factory.admitted("enclave", "dev/enclave", &attester);
    assert_eq!(ends("dev/enclave"), unix_ms(until));
    let chip = vendors.amd.chip_until(CHIP, until);
    let processor = vendors.intel.processor(PPID, until);
    for azure in [
        Azure::snp(&chip, Guest::of(GOOD)),
        Azure::tdx(&processor, TrustDomain::of(GOOD)),
    ] {
        let _azure = factory.admitted("azure", "dev/azure", &azure.attester);
        assert_eq!(ends("dev/azure"), unix_ms(until));
    }
    if !Configfs::is_possible() {
        return;
    }
    let (_guest, attester) = snp(&chip, Guest::of(GOOD));
    let _snp = factory.admitted("snp", "dev/snp", &attester);
    assert_eq!(ends("dev/snp"), unix_ms(until));
    let (_guest, attester) = tdx(&processor, TrustDomain::of(GOOD));
    let _tdx = factory.admitted("tdx", "dev/tdx", &attester);
    assert_eq!(ends("dev/tdx"), unix_ms(until));
}

#[test]
fn no_certificate_outlives_what_vendors_said_of_its_hardware() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let until = soon(1200);
    let service = vendors.serve(until);
    let factory = Factory::start(&documents(), vendors.roots(), service.sources());
    let processor = vendors.intel.processor(PPID, soon(90 * DAY));
    let (_tdx_guest, attester) = tdx(&processor, TrustDomain::of(GOOD));
    let _tdx = factory.admitted("tdx", "dev/tdx", &attester);
    let (_snp_guest, attester) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let _snp = factory.admitted("snp", "dev/snp", &attester);
    for workload in ["dev/tdx", "dev/snp"] {
        let issued = factory.last_issuance(workload);
        assert_eq!(
            issued["not_after"].as_u64(),
            Some(unix_ms(until)),
            "{workload}"
        );
    }
}
