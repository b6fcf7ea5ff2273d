//! Reserve prices by utilisation.

use hourglass_capacity::auction::reserve::{
    Point, ReserveDraft, ReserveError, ReservePolicy, Shape, utilisation,
};
use hourglass_units::{Percent, Price};

fn percent(text: &str) -> Percent {
    text.parse().unwrap()
}

fn policy(shape: Shape, points: &[(&str, &str)]) -> Result<ReservePolicy, ReserveError> {
    let point = |(utilisation, price): &(&str, &str)| Point {
        utilisation: percent(utilisation),
        price: Price::parse(price).unwrap(),
    };
    ReservePolicy::new(ReserveDraft { shape, points: points.iter().map(point).collect() })
}

#[test]
fn reserve_prices_follow_the_table() {
    let points = [("0", "0.80"), ("50", "0.80"), ("80", "1.40"), ("100", "2")];
    for (at, steps, lines) in [
        ("0", "0.80", "0.80"),
        ("49.9999", "0.80", "0.80"),
        ("50", "0.80", "0.80"),
        ("65", "0.80", "1.10"),
        ("79.9999", "0.80", "1.399998"),
        ("80", "1.40", "1.40"),
        ("90", "1.40", "1.70"),
        ("100", "2", "2"),
        ("250", "2", "2"),
    ] {
        let found = |shape| policy(shape, &points).unwrap().price_at(percent(at));
        assert_eq!(found(Shape::Steps), Price::parse(steps).unwrap(), "steps at {at}");
        assert_eq!(found(Shape::Lines), Price::parse(lines).unwrap(), "lines at {at}");
    }
    let nanos = policy(Shape::Lines, &[("0", "0"), ("0.0003", "0.000000002")]).unwrap();
    let found = ["0", "0.0001", "0.0002", "0.0003"].map(|at| nanos.price_at(percent(at)).nanos());
    assert_eq!(found, [0, 0, 1, 2]);
}

#[test]
fn a_table_that_falls_or_leaves_a_gap_is_refused() {
    let check = |points: &[(&str, &str)], expected: &str| {
        let error = policy(Shape::Steps, points).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&[], "0 points");
    check(&vec![("0", "1"); 65], "65 points");
    check(&[("1", "1")], "begin at 1 %");
    check(&[("0", "1"), ("0", "2")], "at 0 % follows one at 0 %");
    check(&[("0", "1"), ("60", "2"), ("50", "3")], "at 50 % follows one at 60 %");
    check(&[("0", "1"), ("101", "2")], "at 101 %");
    check(&[("0", "1"), ("10", "0.9")], "falls from 1 to 0.9 at 10 %");
    let text = r#"{"shape":"steps","points":[{"utilisation":"5","price":"1"}]}"#;
    assert!(serde_json::from_str::<ReservePolicy>(text).unwrap_err().to_string().contains("begin at 5 %"));
}

#[test]
fn utilisation_is_a_share_rounded_down() {
    for (used, capacity, expected) in [
        (0, 10, "0"),
        (1, 3, "33.3333"),
        (10, 10, "100"),
        (11, 10, "100"),
        (0, 0, "100"),
        (u64::MAX, 1, "100"),
    ] {
        assert_eq!(utilisation(used, capacity), percent(expected));
    }
}
