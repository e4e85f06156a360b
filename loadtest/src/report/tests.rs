//! Pages of runs that were made up.

use super::*;
use crate::chaos::{Chaos, Injected};
use crate::experts::{Change, Evenness, Hot, Interval, LayerUse, Period, Rebalance, Said, Slice};
use crate::results::{Percentiles, Requests, Second};
use crate::sweep::{Level, Levels};

fn outcome() -> Outcome {
    let mut outcome = Outcome {
        requests: Requests { sent: 300, succeeded: 300, ..Requests::default() },
        timeline: (0..4).map(second).collect(),
        experts: Some(experts()),
        sweep: Some(sweep()),
        chaos: Some(chaos()),
        ..Outcome::default()
    };
    outcome.settings.insert("server".into(), "unix:<b>\"x\"".into());
    let times = Percentiles { count: 300, p50_ms: 3.0, p99_ms: 40.0, max_ms: 1200.0, ..times() };
    outcome.latency.ttft = times;
    outcome
}

fn sweep() -> Levels {
    let level = |rate: f64, ttft_p99_ms: f64, saturated: Option<&str>| Level {
        rate,
        offered: rate,
        ttft_p99_ms,
        saturated: saturated.map(Into::into),
        ..Level::default()
    };
    let levels = vec![level(10.0, 20.0, None), level(20.0, 3000.0, Some("71 % <completed>"))];
    Levels { levels, highest: Some(10.0), ended: "10 are borne & 20 are not".into() }
}

fn chaos() -> Chaos {
    let fault = |fault: &str, recovery_ms| Injected {
        fault: fault.into(),
        at: 1.25,
        recovery_ms,
        problem: Some("<late>".into()),
        ..Injected::default()
    };
    let faults = vec![fault("kill:<n>@1s", Some(321.0)), fault("pause:m@1s+2s", None)];
    Chaos { faults, compared: 77, differing: 3, ..Chaos::default() }
}

fn times() -> Percentiles {
    Percentiles { p90_ms: 20.0, p95_ms: 30.0, p999_ms: 900.0, ..Percentiles::default() }
}

fn second(at: u32) -> Second {
    Second { at: f64::from(at), seconds: 1.0, tokens: 100, failed: 1, ..Second::default() }
}

fn experts() -> Experts {
    let layer = LayerUse {
        layer: 3,
        pairs: 100,
        experts: Evenness { balancedness: 0.4, ..Evenness::default() },
        hot: vec![Hot { expert: 1, times: 3.2 }],
        ..LayerUse::default()
    };
    let period =
        |balancedness| Period { from: 0.0, to: 4.0, balancedness, layers: vec![layer.clone()] };
    let interval = |from: f64, pairs: [u64; 2]| Interval {
        from,
        to: from + 1.0,
        epoch: 1,
        nodes: [("a<i>".to_owned(), vec![pairs[0]]), ("b".to_owned(), vec![pairs[1]])].into(),
        ..Interval::default()
    };
    let pairs = vec![vec![10, 80, 10, 0]];
    Experts {
        whole: period(0.8),
        pairs: pairs.clone(),
        slices: vec![Slice { from: 0.0, to: 4.0, pairs }],
        intervals: vec![interval(0.0, [90, 10]), interval(1.0, [0, 0]), interval(2.0, [50, 50])],
        changes: vec![Change { at: 1.5, epoch: 2 }],
        rebalances: vec![Rebalance {
            from: 1.5,
            to: 1.5,
            epoch: 2,
            before: Some(period(0.6)),
            after: Some(period(0.97)),
        }],
        reasons: vec![Said { at: 1.5, text: "load 3/1 on <node>".into() }],
        ..Experts::default()
    }
}

#[test]
fn the_page_says_what_happened_and_shows_every_picture() {
    let page = page(&outcome());
    for expected in [
        "All 300 requests were served. The balancer evened the nodes out: balancedness went from 0.60 to 0.97.",
        "One expert is hot.",
        "layer 3, expert 1: 3.2 times the mean",
        "class=\"heatmap\"",
        "Share of each node in the work over time",
        "Balancedness of the nodes over time",
        "load 3/1 on &lt;node&gt;",
        "The highest rate that was borne is 10 requests a second",
        "10 are borne &amp; 20 are not",
        "71 % &lt;completed&gt;",
        ">knee</text>",
        ">kill:&lt;n&gt;</text>",
        "<td>321</td>",
        "not within the run",
        "77 answers were compared",
        "before 0.60",
        "after 0.97",
    ] {
        assert!(page.contains(expected), "no {expected:?} in the page");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("role=\"img\"").count());
    assert!(page.matches("<svg").count() >= 7);
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_else() {
    let page = page(&outcome());
    for outside in
        ["http:", "https:", "src=", "@import", "url(", "<script", "<i>", "<b>\"", "<node>"]
    {
        assert!(!page.contains(outside), "{outside:?} is in the page");
    }
    for tag in
        ["svg", "section", "table", "tr", "details", "header", "ul", "div", "text", "rect", "title"]
    {
        let opened =
            page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf"), "a place is no number");
}

#[test]
fn an_empty_run_has_a_page_too() {
    let page = page(&Outcome::default());
    assert!(page.contains("No request was measured.") && page.contains("not watched"));
    let bare = Outcome { experts: Some(Experts::default()), ..Outcome::default() };
    assert!(super::page(&bare).contains("class=\"heatmap\""));
}
