//! Pictures for the documents, drawn from what a real run showed. `PAYOPS_PICTURES=1` draws them anew.
#![allow(
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a picture is not money"
)]

use std::{fmt::Write as _, fs, path::PathBuf};

use serde_json::Value;

use crate::collector::Seen;

const FONT: &str = "font-family=\"ui-sans-serif, system-ui, sans-serif\" font-size=\"13\"";
const INK: &str = "#1f2933";
const LINES: [&str; 8] =
    ["#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4b5563"];

/// Whether pictures are drawn in this run.
pub fn wanted() -> bool {
    std::env::var_os("PAYOPS_PICTURES").is_some()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/pictures").join(name)
}

/// Draws it if pictures are wanted, and sees to it that the one in the documents shows those words.
pub fn keep(name: &str, draw: impl FnOnce() -> String, words: &[&str]) {
    if wanted() {
        fs::create_dir_all(path("")).unwrap();
        fs::write(path(name), draw()).unwrap();
    }
    let kept = fs::read_to_string(path(name)).unwrap();
    for word in words {
        assert!(
            kept.contains(&escaped(word)),
            "{name} does not show {word}: draw it anew with PAYOPS_PICTURES=1"
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(svg: &mut String, (x, y): (f64, f64), more: &str, content: &str) {
    _ = write!(
        svg,
        "<text x=\"{x:.0}\" y=\"{y:.0}\" {FONT} fill=\"{INK}\" {more}>{}</text>",
        escaped(content)
    );
}

fn page(width: f64, height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\
         <title>{}</title><rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>",
        escaped(title)
    )
}

/// Spans as bars below each other, each below its parent; all but `above`, which has a time of its own.
pub fn trace(spans: &[Seen], above: &str) -> String {
    const LEFT: f64 = 330.0;
    const WIDTH: f64 = 560.0;
    const ROW: f64 = 30.0;
    let mut timed: Vec<&Seen> = spans.iter().filter(|span| span.name != above).collect();
    timed.sort_by_key(|span| span.start);
    let begin = timed.iter().map(|span| span.start).min().unwrap();
    let end = timed.iter().map(|span| span.end).max().unwrap();
    let scale = WIDTH / (end - begin) as f64;
    let mut svg = page(LEFT + WIDTH + 110.0, ROW * (timed.len() as f64 + 2.0), "A capture, as a trace");
    text(&mut svg, (12.0, 24.0), "font-weight=\"600\"", &format!("{above} (the caller's own span)"));
    for (nth, span) in timed.iter().enumerate() {
        let y = ROW * (nth as f64 + 1.0) + 8.0;
        let depth = if timed.iter().any(|other| other.id == span.parent) { 44.0 } else { 28.0 };
        text(&mut svg, (depth, y + 14.0), "", span.name.trim_start_matches("payops.v1."));
        let (x, width) = (LEFT + (span.start - begin) as f64 * scale, (span.end - span.start) as f64 * scale);
        let colour = LINES
            [if span.name.contains("operations") && span.kind == 3 { 2 } else { span.kind as usize % 2 }];
        _ = write!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"18\" rx=\"3\" fill=\"{colour}\" opacity=\"0.85\"/>",
            width.max(2.0)
        );
        let took = (span.end - span.start) as f64 / 1e6;
        text(&mut svg, (x + width + 6.0, y + 14.0), "", &format!("{took:.2} ms"));
    }
    svg + "</svg>\n"
}

/// A panel: its title, and its lines by name, each with points of time and value.
pub struct Panel {
    pub title: String,
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// The lines of what a range of a query found, named as the panel names them.
pub fn lines(found: &[Value], legend: &str) -> Vec<(String, Vec<(f64, f64)>)> {
    let line = |series: &Value| {
        let labels = series["metric"].as_object().unwrap();
        let name = labels.iter().fold(legend.to_owned(), |name, (label, value)| {
            name.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap())
        });
        let point = |point: &Value| {
            let value = point[1].as_str().unwrap().parse::<f64>().unwrap();
            value.is_finite().then(|| (point[0].as_f64().unwrap(), value))
        };
        (name, series["values"].as_array().unwrap().iter().filter_map(point).collect::<Vec<_>>())
    };
    found.iter().map(line).filter(|(_, points)| points.iter().any(|(_, value)| *value != 0.0)).collect()
}

/// Panels, two in a row.
pub fn dashboard(title: &str, panels: &[Panel]) -> String {
    const WIDTH: f64 = 500.0;
    const HEIGHT: f64 = 240.0;
    let rows = panels.len().div_ceil(2) as f64;
    let mut svg = page(2.0 * WIDTH, rows * HEIGHT + 40.0, title);
    text(&mut svg, (16.0, 26.0), "font-weight=\"600\"", title);
    let times = panels.iter().flat_map(|panel| &panel.lines).flat_map(|(_, points)| points);
    let (begin, end) =
        times.fold((f64::MAX, f64::MIN), |(begin, end), (at, _)| (begin.min(*at), end.max(*at)));
    for (nth, panel) in panels.iter().enumerate() {
        let (left, top) = ((nth % 2) as f64 * WIDTH + 12.0, (nth / 2) as f64 * HEIGHT + 40.0);
        _ = write!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" rx=\"4\" fill=\"none\" stroke=\"#cbd2d9\"/>",
            WIDTH - 20.0,
            HEIGHT - 14.0
        );
        text(&mut svg, (left + 10.0, top + 20.0), "font-weight=\"600\"", &panel.title);
        let most =
            panel.lines.iter().flat_map(|(_, points)| points).fold(0.0, |most: f64, (_, at)| most.max(*at));
        let most = if most > 0.0 { most } else { 1.0 };
        let (x0, y0, wide, high) = (left + 44.0, top + 160.0, WIDTH - 90.0, 124.0);
        text(&mut svg, (left + 6.0, top + 40.0), "opacity=\"0.7\"", &short(most));
        text(&mut svg, (left + 6.0, y0), "opacity=\"0.7\"", "0");
        _ = write!(svg, "<path d=\"M{x0} {y0}h{wide}\" stroke=\"#cbd2d9\"/>");
        for (at, (name, points)) in panel.lines.iter().take(LINES.len()).enumerate() {
            let place = |(time, value): &(f64, f64)| {
                format!("{:.1},{:.1}", x0 + (time - begin) / (end - begin) * wide, y0 - value / most * high)
            };
            let points: Vec<String> = points.iter().map(place).collect();
            let colour = LINES[at];
            _ = write!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>",
                points.join(" ")
            );
            let (x, y) = (left + 14.0 + (at % 3) as f64 * 156.0, top + 182.0 + (at / 3) as f64 * 18.0);
            _ = write!(
                svg,
                "<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
                y - 9.0
            );
            text(&mut svg, (x + 14.0, y), "style=\"font-size:11px\"", name);
        }
    }
    svg + "</svg>\n"
}

fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
