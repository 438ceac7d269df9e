//! The plot: bars on a logarithmic scale, as SVG.

use super::outcome::Outcome;

/// What each bar is called, and its colour.
const BARS: [(&str, &str); 3] = [("husk", "#1b4f8f"), ("husk, no broker", "#7fa7d6"), ("swtpm", "#c9853b")];

/// Sizes in pixels.
const LEFT: f64 = 250.0;
const WIDTH: f64 = 560.0;
const TOP: f64 = 60.0;
const BAR: f64 = 9.0;
const GROUP: f64 = 40.0;

/// One group of bars for each outcome.
pub(super) fn svg(outcomes: &[Outcome]) -> String {
    let scale = Scale::over(outcomes);
    let height = TOP + GROUP * outcomes.len() as f64 + 30.0;
    let mut body = legend() + &grid(&scale, height - 30.0);
    for (row, outcome) in outcomes.iter().enumerate() {
        body += &group(outcome, TOP + GROUP * row as f64, &scale);
    }
    let total = LEFT + WIDTH + 90.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn legend() -> String {
    let mut text = String::new();
    for (at, (name, colour)) in BARS.iter().enumerate() {
        let x = LEFT + 150.0 * at as f64;
        text += &format!("<rect x=\"{x}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n");
        text += &words(x + 18.0, 22.0, "start", name);
    }
    text
}

/// A line for each power of ten, with its name.
fn grid(scale: &Scale, bottom: f64) -> String {
    let mut text = String::new();
    for exponent in scale.low..=scale.high {
        let us = 10_f64.powi(exponent);
        let x = LEFT + scale.pixels(us);
        text += &format!(
            "<line x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#dddddd\"/>\n",
            TOP - 8.0
        );
        text += &words(x, TOP - 14.0, "middle", &duration(us));
    }
    text
}

fn group(outcome: &Outcome, y: f64, scale: &Scale) -> String {
    let mut text = words(LEFT - 8.0, y + 18.0, "end", outcome.op);
    for (at, ((_, colour), us)) in BARS.iter().zip(outcome.median_us).enumerate() {
        let (top, length) = (y + (BAR + 1.0) * at as f64, scale.pixels(us));
        text += &format!(
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n"
        );
        text += &words(LEFT + length + 4.0, top + BAR, "start", &duration(us));
    }
    text
}

fn words(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")
}

/// A time as people say it.
fn duration(us: f64) -> String {
    match us {
        _ if us < 10.0 => format!("{us:.1} µs"),
        _ if us < 1e3 => format!("{us:.0} µs"),
        _ if us < 1e4 => format!("{:.1} ms", us / 1e3),
        _ if us < 1e6 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.1} s", us / 1e6),
    }
}

/// Powers of ten from left to right.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    fn over(outcomes: &[Outcome]) -> Self {
        let all = outcomes.iter().flat_map(|outcome| outcome.median_us).filter(|us| *us > 0.0);
        let (low, high) =
            all.fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), us| (low.min(us), high.max(us)));
        let exponent = |us: f64| us.log10().clamp(-3.0, 9.0);
        #[expect(clippy::cast_possible_truncation, reason = "between -3 and 9")]
        let (low, high) = (exponent(low).floor() as i32, exponent(high).ceil() as i32);
        Self { low: low.min(high - 1), high }
    }

    fn pixels(&self, us: f64) -> f64 {
        let part = (us.max(1e-3).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        WIDTH * part.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::two;
    use super::{Scale, WIDTH, duration, svg};

    #[test]
    fn every_bar_and_name_is_drawn_and_every_element_closed() {
        let picture = svg(&two());
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        // The ground, three in the legend, three for each of two operations.
        assert_eq!(picture.matches("<rect ").count(), 1 + 3 + 6);
        assert_eq!(picture.matches("<text ").count(), picture.matches("</text>").count());
        assert!(picture.contains("NV_Increment") && !picture.contains("NaN"));
    }

    #[test]
    fn nothing_to_draw_is_an_empty_picture() {
        assert!(!svg(&[]).contains("NaN"));
    }

    #[test]
    fn bars_grow_with_the_logarithm() {
        let scale = Scale::over(&two());
        assert_eq!((scale.low, scale.high), (1, 3));
        assert!((scale.pixels(100.0) - WIDTH / 2.0).abs() < 1e-6);
        assert!((scale.pixels(1e9) - WIDTH).abs() < 1e-6);
        assert!(scale.pixels(0.0).abs() < 1e-6);
    }

    #[test]
    fn times_are_said_in_their_unit() {
        assert_eq!(
            [3.21, 45.0, 4_500.0, 45_000.0, 2e6].map(duration),
            ["3.2 µs", "45 µs", "4.5 ms", "45 ms", "2.0 s"]
        );
    }
}
