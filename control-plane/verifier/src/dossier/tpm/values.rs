//! Values of PCRs beside a quote: those that were quoted, all of them and no others.

use super::parts::{SignedQuote, Values};
use crate::evidence::tpm::attest::Quote;
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::pcr::{PcrValueError, PcrValues};
use crate::judgement::Ledger;

/// A narrowed selection leaves out values that were given, a widened one quotes what nobody shows: both are refused.
pub(super) fn check_values(
    quote: &SignedQuote,
    parsed: &Quote,
    hash: HashAlgorithm,
    all: &mut PcrValues,
    ledger: &mut Ledger,
) {
    let values = match &quote.values {
        Values::None => {
            ledger.skip("pcr_values", "no values were given");
            return;
        }
        Values::Named(named) => named_values(named),
        Values::InOrder(raw) => values_in_order(raw, parsed),
    };
    let Some(values) = ledger.succeed("pcr_values", "pcr_values_malformed", values) else {
        return;
    };
    let given = values.selection();
    let detail = format!("quoted {}, given {given}", parsed.selection);
    let same = given.same_as(&parsed.selection);
    let same = ledger.require("pcr_selection", "pcr_selection", same, detail);
    let digest = values.digest(&parsed.selection, hash);
    let holds = digest.as_deref() == Some(parsed.pcr_digest.as_slice());
    let detail = parsed.selection.to_string();
    if !ledger.require("pcr_digest", "pcr_digest", holds, detail) || !same {
        return;
    }
    for (bank, pcr, value) in values.iter() {
        let added = all.insert(bank, pcr, value.to_vec());
        if added.is_err() {
            ledger.succeed("pcr_values", "pcr_values_malformed", added);
        }
    }
}

fn named_values(named: &[(u16, u8, Vec<u8>)]) -> Result<PcrValues, ValuesError> {
    let mut values = PcrValues::default();
    for (bank, pcr, value) in named {
        let bank = HashAlgorithm::ALL
            .into_iter()
            .find(|hash| hash.id() == *bank)
            .ok_or(ValuesError::Bank(*bank))?;
        values.insert(bank, *pcr, value.clone())?;
    }
    Ok(values)
}

fn values_in_order(mut raw: &[u8], quote: &Quote) -> Result<PcrValues, ValuesError> {
    let mut values = PcrValues::default();
    for (bank, set) in quote.selection.banks() {
        for pcr in set.iter() {
            let (value, rest) = raw
                .split_at_checked(bank.digest_len())
                .ok_or(ValuesError::Length)?;
            values.insert(bank, pcr, value.to_vec())?;
            raw = rest;
        }
    }
    if raw.is_empty() {
        Ok(values)
    } else {
        Err(ValuesError::Length)
    }
}

/// Why values can't be those that were quoted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
enum ValuesError {
    /// Not of SHA-256 or SHA-384.
    #[error("values of bank 0x{0:04x} count for nothing")]
    Bank(u16),
    /// Not a PCR's value.
    #[error("not a value of a PCR")]
    Value(#[from] PcrValueError),
    /// More or fewer bytes than the quoted PCRs have.
    #[error("not as many bytes as the quoted PCRs have")]
    Length,
}
