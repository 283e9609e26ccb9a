//! Every small history, in every order.

use super::*;

/// Everything that can be seen of one operation, in small.
fn alphabet(kind: Kind) -> Vec<Event> {
    vec![
        ours(kind),
        part(ours(kind), 40),
        part(ours(kind), 60),
        theirs(kind),
        begun(kind, Some("r")),
        end_of(kind, "r"),
        failed(ours(kind), &["DECLINED"]),
        failed(ours(kind), &["ERROR"]),
        failed(end_of(kind, "r"), &["DECLINED"]),
        failed(theirs(kind), &["DECLINED"]),
        Event { success: None, ..ours(kind) },
        Event { name: "NEWS".to_owned(), ..ours(kind) },
    ]
}

/// Every subset of up to four events, and every order of each.
fn histories(kind: Kind) -> Vec<Vec<Vec<Event>>> {
    let alphabet = alphabet(kind);
    let letters = alphabet.len();
    let mut subsets: Vec<Vec<usize>> = vec![vec![]];
    for first in 0..letters {
        let longer: Vec<_> = subsets
            .iter()
            .filter(|subset| subset.len() < 4)
            .map(|subset| [subset.as_slice(), &[first]].concat())
            .collect();
        subsets.extend(longer);
    }
    let orders = |subset: Vec<usize>| {
        let mut orders: Vec<Vec<usize>> = vec![vec![]];
        for letter in subset {
            orders = orders
                .iter()
                .flat_map(|order| {
                    (0..=order.len()).map(move |place| {
                        let mut order = order.clone();
                        order.insert(place, letter);
                        order
                    })
                })
                .collect();
        }
        orders.iter().map(|order| order.iter().map(|letter| alphabet[*letter].clone()).collect()).collect()
    };
    subsets.into_iter().map(orders).collect()
}

#[test]
fn in_every_history_a_proof_is_the_amount_and_a_decline_is_nothing_whatever_the_order() {
    for kind in MONEY {
        let (mut proven, mut declined) = (0, 0);
        for orders in histories(kind) {
            let began = orders[0].iter().any(|event| event.name.starts_with("INITIATE_"));
            // What moved on our behalf, told apart by other means than judge's.
            let moved: i64 = orders[0]
                .iter()
                .filter(|event| event.name == name(kind) && event.success == Some(true))
                .filter(|event| {
                    event.event_reference.as_ref().is_some_and(|reference| reference.starts_with("order-1-"))
                        || (began && event.correlation_request_id.is_some())
                })
                .filter_map(|event| event.amount)
                .sum();
            let words: Vec<_> =
                orders.iter().map(|events| word(&verdict(kind, &shown(kind, events)))).collect();
            assert!(
                words.iter().all(|word| *word == words[0]),
                "the order decides: {words:?} {:?}",
                orders[0]
            );
            match words[0] {
                "proven" => {
                    proven += 1;
                    assert_eq!(moved, AMOUNT, "{:?}", orders[0]);
                }
                "contradicted" => assert!(moved > AMOUNT, "{:?}", orders[0]),
                "partly" => assert!(0 < moved && moved < AMOUNT, "{:?}", orders[0]),
                other => {
                    declined += u32::from(other == "declined");
                    assert_eq!(moved, 0, "{other}: {:?}", orders[0]);
                }
            }
        }
        assert!(proven > 50 && declined > 5, "the histories are worth looking at: {proven}, {declined}");
    }
}
