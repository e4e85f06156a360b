//! Facts about every kind of link.

use std::future::poll_fn;
use std::task::Poll;

use guildhall_ids::LayerIdx;
use guildhall_transport::{
    Call, Error, ExpertLink, FailureReason, InProcessLink, NodeEvent, Pair, max_pairs,
};

use crate::support::{
    ECHO, FAIL, HOLD, MAX_CALLS, REASONS, SHAPE, SHORT, STRANGE, TestNode, call, expect_failure,
    expect_outputs, handshake, next, open, serve_everywhere,
};

/// Runs `fact` with a new link of each kind.
async fn check(fact: impl AsyncFn(&TestNode, &mut dyn ExpertLink)) {
    for served in serve_everywhere().await {
        let mut link = open(&served.endpoint).await.unwrap();
        assert_eq!(link.node().as_str(), "node-7");
        fact(&served.node, &mut link).await;
    }
    let node = TestNode::new();
    let mut link = InProcessLink::open(node.clone(), &handshake()).unwrap();
    fact(&node, &mut link).await;
}

#[tokio::test]
async fn outputs_come_back_for_the_right_call_in_any_order() {
    check(async |node, link| {
        let calls = [1, 2, 3].map(|id| call(id, HOLD, id as u32));
        for call in &calls {
            link.send(call.clone()).unwrap();
        }
        node.holds(3).await;
        let quick = call(u64::MAX - 1, ECHO, 2);
        link.send(quick.clone()).unwrap();
        expect_outputs(link, &quick).await;
        for call in calls.iter().rev() {
            node.answer_newest();
            expect_outputs(link, call).await;
        }
    })
    .await;
}

#[tokio::test]
async fn timings_of_the_node_arrive() {
    check(async |_, link| {
        link.send(call(1, ECHO, 1)).unwrap();
        let Ok(NodeEvent::Outputs(outputs)) = next(link).await else { panic!("no outputs") };
        let timings = outputs.timings;
        assert_eq!((timings.queue.as_micros(), timings.compute.as_micros()), (3, 4));
        assert_eq!(timings.batch_pairs, 5);
    })
    .await;
}

#[tokio::test]
async fn a_failure_of_any_kind_leaves_the_link_usable() {
    check(async |_, link| {
        for (id, reason) in (0..).zip(REASONS) {
            let mut failing = call(id, FAIL, 1);
            failing.pairs[0].expert.0 = id as u32;
            link.send(failing).unwrap();
            let failure = expect_failure(link).await;
            assert_eq!((failure.id, failure.reason), (id, reason));
            assert_eq!(failure.message, format!("{reason} it is"));
        }
        let good = call(9, ECHO, 1);
        link.send(good.clone()).unwrap();
        expect_outputs(link, &good).await;
    })
    .await;
}

fn expect_too_many(link: &mut dyn ExpertLink, call: Call) {
    let error = link.send(call).unwrap_err();
    assert!(matches!(error, Error::TooManyCalls { limit: MAX_CALLS, .. }), "{error}");
}

#[tokio::test]
async fn one_call_over_the_limit_is_refused_until_an_answer_is_taken() {
    check(async |node, link| {
        let calls: Vec<_> = (0..MAX_CALLS as u64).map(|id| call(id, HOLD, 1)).collect();
        for call in &calls {
            link.send(call.clone()).unwrap();
        }
        expect_too_many(link, call(100, HOLD, 1));
        node.holds(MAX_CALLS).await;
        node.answer_newest();
        expect_outputs(link, calls.last().unwrap()).await;
        link.send(call(100, HOLD, 1)).unwrap();
        expect_too_many(link, call(101, HOLD, 1));
    })
    .await;
}

#[tokio::test]
async fn answers_that_nobody_took_yet_count_and_none_is_lost() {
    check(async |_, link| {
        let calls: Vec<_> = (0..MAX_CALLS as u64).map(|id| call(id, ECHO, 1)).collect();
        for call in &calls {
            link.send(call.clone()).unwrap();
        }
        expect_too_many(link, call(100, ECHO, 1));
        for call in &calls {
            expect_outputs(link, call).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_malformed_call_is_answered_with_a_failure_and_the_link_goes_on() {
    type Change = fn(&mut Call);
    let changes: [(Change, &str); 5] = [
        (|call| call.pairs[1].token = 2, "pair 1 names token 2, but the call has 2"),
        (|call| call.tokens = 3, "activations are 4096 bytes, but 3 tokens of 2048 bytes"),
        (|call| drop(call.activations.split_off(1)), "activations are 1 bytes, but 2 tokens"),
        (|call| call.pairs.clear(), "the call has no pairs"),
        (
            |call| call.pairs = vec![call.pairs[0]; max_pairs(SHAPE) + 1000],
            "pairs do not fit into a frame",
        ),
    ];
    check(async |_, link| {
        for (id, (change, expected)) in (0..).zip(changes) {
            let mut malformed = call(id, ECHO, 2);
            change(&mut malformed);
            link.send(malformed).unwrap();
            let failure = expect_failure(link).await;
            assert_eq!((failure.id, failure.reason), (id, FailureReason::Malformed));
            assert!(failure.message.contains(expected), "{}", failure.message);
        }
        let good = call(9, ECHO, 1);
        link.send(good.clone()).unwrap();
        expect_outputs(link, &good).await;
    })
    .await;
}

#[tokio::test]
async fn frames_of_many_mebibytes_pass() {
    check(async |_, link| {
        // 24 MiB each way, beyond the windows of a connection.
        let large = call(1, ECHO, 12 << 10);
        link.send(large.clone()).unwrap();
        expect_outputs(link, &large).await;
        // One row out, 16 MiB back.
        let mut wide = call(2, ECHO, 1);
        wide.pairs = vec![Pair { ..wide.pairs[0] }; 8 << 10];
        link.send(wide.clone()).unwrap();
        expect_outputs(link, &wide).await;
    })
    .await;
}

async fn check_protocol_error(layer: LayerIdx, expected: &str) {
    check(async |_, link| {
        link.send(call(1, layer, 1)).unwrap();
        let error = next(link).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    })
    .await;
}

#[tokio::test]
async fn outputs_of_a_wrong_length_break_the_protocol() {
    check_protocol_error(SHORT, "2047 bytes of outputs for 1 pairs, not 2048").await;
}

#[tokio::test]
async fn an_answer_to_an_unknown_call_breaks_the_protocol() {
    check_protocol_error(STRANGE, "an answer to unknown call 2").await;
}

#[tokio::test]
async fn an_idle_link_has_no_event() {
    check(async |_, link| {
        let nothing = poll_fn(|cx| Poll::Ready(link.poll_event(cx).is_pending())).await;
        assert!(nothing);
    })
    .await;
}
