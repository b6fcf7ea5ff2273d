//! The result as a picture: price and utilisation over time by pool, and waiting time by limit. Text in the
//! SVG is left to the fonts of whoever looks at it.

use hourglass_units::{Percent, Price};
use plotters::coord::Shift;
use plotters::prelude::{
    BindKeyPoints, ChartBuilder, Color, DrawingArea, DrawingAreaErrorKind, IntoDrawingArea, LineSeries,
    PathElement, RGBColor, Rectangle, SVGBackend, Text, WHITE,
};

use crate::engine::{Outcome, PoolRecord};
use crate::report::{Report, WaitingReport};
use crate::supply::Supply;

/// Most pools that are drawn: those with the most GPU-time.
pub const POOLS_DRAWN_MAX: usize = 8;
/// Points of a line: more cannot be told apart.
const POINTS: u64 = 800;
/// Marks of an axis.
const MARKS_MAX: u64 = 8;
const SIZE: (u32, u32) = (1_000, 1_080);
/// Where the legend begins.
const LEGEND_AT: u32 = 780;
const FONT: &str = "sans-serif";

/// Colours that most people can tell apart, those who see fewer colours included.
const COLOURS: [RGBColor; POOLS_DRAWN_MAX] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(150, 150, 60),
];
const NEVER: RGBColor = RGBColor(225, 225, 225);

/// What is wrong with the picture, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the picture cannot be drawn: {0}")]
pub struct PlotError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

/// Draws an outcome as SVG.
pub fn plot(outcome: &Outcome, supply: &Supply) -> Result<String, PlotError> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let parts = root.split_evenly((3, 1));
        let [price, utilisation, waiting] = parts.as_slice() else {
            return Err(PlotError("it has no room".to_owned()));
        };
        let pools = drawn(outcome, supply);
        let span = Span { opens: outcome.opens, closes: outcome.closes };
        draw_prices(price, &pools, span)?;
        draw_utilisation(utilisation, &pools, span)?;
        draw_waiting(waiting, &Report::of(outcome, supply).waiting)?;
        root.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Where a line goes, from the opening on.
type Points = Vec<(i64, i64)>;

struct Line {
    name: String,
    colour: RGBColor,
    points: Points,
}

/// A bar from 0 up.
struct Bar {
    colour: RGBColor,
    from: i64,
    to: i64,
    height: i64,
}

#[derive(Clone, Copy)]
struct Span {
    opens: u64,
    closes: u64,
}

impl Span {
    fn seconds(self) -> u64 {
        self.closes.saturating_sub(self.opens).max(1)
    }

    /// The seconds that a line has a point at.
    fn seconds_drawn(self) -> impl Iterator<Item = u64> {
        let step = self.seconds().div_ceil(POINTS);
        (0..=POINTS).map(move |point| point.saturating_mul(step)).take_while(move |at| *at <= self.seconds())
    }
}

/// The pools that are drawn, with their names.
fn drawn<'a>(outcome: &'a Outcome, supply: &Supply) -> Vec<(String, &'a PoolRecord)> {
    let names = supply.pools().iter().map(|pool| pool.name.to_string());
    let mut pools: Vec<_> = names.zip(&outcome.pools).collect();
    pools.sort_by_key(|(_, pool)| std::cmp::Reverse(pool.supply));
    pools.truncate(POOLS_DRAWN_MAX);
    pools
}

fn draw_prices(area: &Area<'_>, pools: &[(String, &PoolRecord)], span: Span) -> Result<(), PlotError> {
    let points = |pool: &PoolRecord| {
        let seconds = span.seconds_drawn();
        let at = |second: u64| {
            let price = level(&pool.prices, span.opens.saturating_add(second)).unwrap_or(Price::ZERO);
            (whole(second), price.nanos())
        };
        seconds.map(at).collect()
    };
    let highest = pools.iter().flat_map(|(_, pool)| &pool.prices).map(|(_, price)| price.nanos()).max();
    let axis = Axis::up_to(highest.unwrap_or(0), 1_000_000, price_label);
    draw_lines(area, "Price of a GPU-hour", &axis, span, lines(pools, points))
}

fn draw_utilisation(area: &Area<'_>, pools: &[(String, &PoolRecord)], span: Span) -> Result<(), PlotError> {
    let points = |pool: &PoolRecord| {
        let (mut before, mut points) = (0, Vec::new());
        for second in span.seconds_drawn().skip(1) {
            let within = (span.opens.saturating_add(before), span.opens.saturating_add(second));
            let (used, all) = (integral(&pool.working, within), integral(&pool.supplies, within));
            let parts = u128::from(Percent::WHOLE.ppm()).saturating_mul(used).checked_div(all).unwrap_or(0);
            points.push((whole(second), i64::try_from(parts).unwrap_or(0)));
            before = second;
        }
        points
    };
    let axis = Axis::up_to(i64::from(Percent::WHOLE.ppm()), 10_000, percent_label);
    draw_lines(area, "GPUs at work, of those for spot", &axis, span, lines(pools, points))
}

/// For each decile of limits a bar for half of the jobs and one for nine tenths.
fn draw_waiting(area: &Area<'_>, deciles: &[WaitingReport]) -> Result<(), PlotError> {
    const WIDTH: i64 = 10;
    let times = deciles.iter().flat_map(|decile| [decile.p50_seconds, decile.p90_seconds]);
    let longest = times.flatten().max().unwrap_or(0);
    let y = Axis::up_to(whole(longest), 60, time_label);
    let mut bars = Vec::new();
    for (decile, at) in deciles.iter().zip((0..).step_by(10)) {
        let [half, most] = [COLOURS[0], COLOURS[1]];
        let both = [(decile.p50_seconds, half, 1_i64, 5_i64), (decile.p90_seconds, most, 5, 9)];
        bars.extend(both.map(|(seconds, colour, from, to)| Bar {
            // Who never began waits for longer than the axis has room for.
            colour: if seconds.is_some() { colour } else { NEVER },
            from: from.saturating_add(at),
            to: to.saturating_add(at),
            height: seconds.map_or(y.end, whole),
        }));
    }
    let middles =
        (0..deciles.len()).map(|decile| whole(decile as u64).saturating_mul(WIDTH).saturating_add(5));
    let label = |at: i64| {
        let decile = usize::try_from(at / WIDTH).ok().and_then(|decile| deciles.get(decile));
        decile.map(|decile| format!("{} - {}", decile.limit_from, decile.limit_to)).unwrap_or_default()
    };
    let x = Axis {
        end: whole(deciles.len().max(1) as u64).saturating_mul(WIDTH),
        marks: middles.collect(),
        label,
    };
    let legend =
        [("half began within", COLOURS[0]), ("nine tenths began within", COLOURS[1]), ("never", NEVER)];
    let legend = legend.map(|(name, colour)| Line { name: name.to_owned(), colour, points: Vec::new() });
    draw(area, "Waiting time until the first work, by limit price", &x, &y, legend.into(), bars)
}

fn lines(pools: &[(String, &PoolRecord)], points: impl Fn(&PoolRecord) -> Points) -> Vec<Line> {
    let coloured = pools.iter().zip(COLOURS);
    coloured.map(|((name, pool), colour)| Line { name: name.clone(), colour, points: points(pool) }).collect()
}

fn draw_lines(
    area: &Area<'_>,
    title: &str,
    y: &Axis<impl Fn(i64) -> String>,
    span: Span,
    lines: Vec<Line>,
) -> Result<(), PlotError> {
    let x = Axis::up_to(whole(span.seconds()), 60, time_label);
    let x = Axis { end: whole(span.seconds()), ..x };
    draw(area, title, &x, y, lines, Vec::new())
}

fn draw(
    area: &Area<'_>,
    title: &str,
    x: &Axis<impl Fn(i64) -> String>,
    y: &Axis<impl Fn(i64) -> String>,
    lines: Vec<Line>,
    bars: Vec<Bar>,
) -> Result<(), PlotError> {
    let (area, legend) = area.split_horizontally(LEGEND_AT);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 18))
        .margin(14)
        .x_label_area_size(28)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (0..x.end).with_key_points(x.marks.clone()),
            (0..y.end).with_key_points(y.marks.clone()),
        )?;
    chart
        .configure_mesh()
        .light_line_style(WHITE.mix(0.0))
        .x_label_formatter(&|at| (x.label)(*at))
        .y_label_formatter(&|at| (y.label)(*at))
        .label_style((FONT, 12))
        .draw()?;
    chart.draw_series(bars.into_iter().map(|Bar { colour, from, to, height }| {
        Rectangle::new([(from, 0), (to, height)], colour.filled())
    }))?;
    let heights = (0..).map(|line: i32| line.saturating_mul(18).saturating_add(50));
    for (Line { name, colour, points }, height) in lines.into_iter().zip(heights) {
        chart.draw_series(LineSeries::new(points, colour.stroke_width(1)))?;
        legend.draw(&PathElement::new([(0, height), (16, height)], colour.stroke_width(4)))?;
        legend.draw(&Text::new(name, (22, height.saturating_sub(6)), (FONT, 12)))?;
    }
    Ok(())
}

/// An axis from 0 on.
struct Axis<Label> {
    end: i64,
    marks: Vec<i64>,
    label: Label,
}

impl<Label> Axis<Label> {
    /// A little beyond the highest value, with marks at round multiples of the unit.
    fn up_to(highest: i64, unit: i64, label: Label) -> Self {
        let end = highest.saturating_add(highest / 10).max(unit);
        let mut step = unit;
        // One, two, five, ten and so on; of a minute up to days as clocks and calendars have them.
        let mut factors = [2, 5, 10].into_iter().cycle();
        let rounds = if unit == 60 {
            vec![5, 15, 30, 60, 180, 360, 720, 1_440, 4_320, 14_400, 43_200]
        } else {
            Vec::new()
        };
        let mut rounds = rounds.into_iter();
        let mut decade = unit;
        while end / step > whole(MARKS_MAX) {
            step = match (rounds.next(), factors.next()) {
                (Some(round), _) => unit.saturating_mul(round),
                (None, Some(factor)) => {
                    let next = decade.saturating_mul(factor);
                    if factor == 10 {
                        decade = next;
                    }
                    next
                }
                (None, None) => end,
            };
        }
        let marks = (0..=whole(MARKS_MAX)).map(|mark| mark.saturating_mul(step));
        Self { end, marks: marks.take_while(|mark| *mark <= end).collect(), label }
    }
}

fn price_label(nanos: i64) -> String {
    Price::from_nanos(nanos).map(|price| price.to_string()).unwrap_or_default()
}

fn percent_label(parts: i64) -> String {
    let percent = u32::try_from(parts).ok().and_then(|parts| Percent::from_ppm(parts).ok());
    percent.map(|percent| format!("{percent} %")).unwrap_or_default()
}

/// In the largest unit that it is a multiple of.
fn time_label(seconds: i64) -> String {
    if seconds == 0 {
        return "0".to_owned();
    }
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let unit = units.into_iter().find(|(unit, _)| seconds % unit == 0);
    unit.map(|(unit, name)| format!("{} {name}", seconds / unit)).unwrap_or_default()
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The level of a step function.
fn level<T: Copy>(changes: &[(u64, T)], at: u64) -> Option<T> {
    let after = changes.partition_point(|(since, _)| *since <= at);
    changes.get(after.checked_sub(1)?).map(|(_, level)| *level)
}

/// The integral of a step function.
fn integral(changes: &[(u64, u64)], (from, to): (u64, u64)) -> u128 {
    let first = changes.partition_point(|(since, _)| *since <= from);
    let (mut since, mut now, mut sum) = (from, level(changes, from).unwrap_or(0), 0_u128);
    for (at, next) in changes.iter().skip(first).take_while(|(at, _)| *at < to) {
        sum = sum.saturating_add(crate::supply::gpu_seconds(now, at.saturating_sub(since)));
        (since, now) = (*at, *next);
    }
    sum.saturating_add(crate::supply::gpu_seconds(now, to.saturating_sub(since)))
}
