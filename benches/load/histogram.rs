//! A log-linear histogram of microseconds-as-nanoseconds: fixed memory, no allocation when recording, error below 0.8 %.

/// Bits of a value kept below its leading one: 128 buckets for each power of two.
const PRECISION: u32 = 7;

/// Counts of durations in nanoseconds.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; bucket(u64::MAX) + 1],
            total: 0,
            max: 0,
        }
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        if let Some(count) = self.counts.get_mut(bucket(nanoseconds)) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(nanoseconds);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
        self.max = 0;
    }

    /// The smallest recorded value, rounded up to its bucket's end, that at least `fraction` of all values don't exceed.
    pub(crate) fn quantile(&self, fraction: f64) -> u64 {
        let mut below = 0;
        for (index, count) in self.counts.iter().enumerate() {
            below += count;
            // Exact up to 2^53 values, far beyond a run's.
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
            if *count > 0 && below as f64 >= fraction * self.total as f64 {
                return bucket_end(index).min(self.max);
            }
        }
        self.max
    }

    /// Quantiles in microseconds.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let micros = |nanoseconds: u64| {
            #[expect(clippy::cast_precision_loss, reason = "a report needs no 53 bits")]
            let micros = nanoseconds as f64 / 1e3;
            (micros * 10.0).round() / 10.0
        };
        serde_json::json!({
            "p50": micros(self.quantile(0.5)),
            "p90": micros(self.quantile(0.9)),
            "p99": micros(self.quantile(0.99)),
            "p99.9": micros(self.quantile(0.999)),
            "max": micros(self.max),
        })
    }
}

fn bucket(value: u64) -> usize {
    let leading = u64::BITS - value.leading_zeros();
    let index = if leading <= PRECISION + 1 {
        value
    } else {
        let shift = leading - PRECISION - 1;
        (u64::from(shift) << PRECISION) + (value >> shift)
    };
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn bucket_end(index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    let linear = 1 << (PRECISION + 1);
    if index < linear {
        return index;
    }
    let shift = (index >> PRECISION) - 1;
    let mantissa = index - (shift << PRECISION);
    // The last bucket ends at `u64::MAX`, which the shift would pass.
    u64::try_from(((u128::from(mantissa) + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_the_stated_error() {
        let powers = (0..64).flat_map(|shift| [(1_u64 << shift) - 1, 1 << shift, (1 << shift) + 1]);
        for value in powers.chain([u64::MAX, 1234, 987_654_321]) {
            let end = bucket_end(bucket(value));
            assert!(end >= value, "{value} is above its bucket's end {end}");
            assert!(
                end - value <= value / 128,
                "{value} is reported as {end}, more than 1/128 off"
            );
        }
    }

    #[test]
    fn quantiles_count_values_and_not_buckets() {
        let mut histogram = Histogram::new();
        for value in 1..=100 {
            histogram.record(value);
        }
        assert_eq!(histogram.quantile(0.5), 50);
        assert_eq!(histogram.quantile(0.99), 99);
        assert_eq!(histogram.quantile(1.0), 100);
        histogram.clear();
        assert_eq!(histogram.total(), 0);
        assert_eq!(histogram.quantile(0.5), 0);
    }
}
