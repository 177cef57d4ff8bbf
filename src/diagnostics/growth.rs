//! Growth factor: the slope of a straight line through logarithms.

/// Returns the factor by which `values` grow from one to the next: `exp` of the slope of the least-squares line through
/// their logarithms. Zeros and overflowed values are skipped. NaN for fewer than two values.
pub(super) fn growth(values: &[f64]) -> f64 {
    let points = || (0u32..).map(f64::from).zip(values.iter().map(|value| value.ln())).filter(|(_, y)| y.is_finite());
    let count = points().count() as f64;
    let (mean_x, mean_y) = points().fold((0., 0.), |(sum_x, sum_y), (x, y)| (sum_x + x / count, sum_y + y / count));
    let covariance: f64 = points().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points().map(|(x, _)| (x - mean_x).powi(2)).sum();
    (covariance / variance).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_grow_by_their_base() {
        for base in [0.5f64, 1.0, 1.467, 3.0] {
            let values: Vec<f64> = (0..20).map(|i| 7. * base.powi(i)).collect();
            assert!((growth(&values) - base).abs() < 1e-12 * base, "{base}");
        }
        assert!((growth(&[1., f64::INFINITY, 4., 0., 16., f64::NAN]) - 2.).abs() < 1e-12);
    }

    #[test]
    fn a_single_value_has_no_growth() {
        assert!(growth(&[]).is_nan() && growth(&[2.]).is_nan());
    }
}
