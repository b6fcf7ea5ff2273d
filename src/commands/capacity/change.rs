//! Changes of pools, as the command line writes them.

use std::str::FromStr;

use hourglass_capacity::pool::PoolName;
use hourglass_consumers::planning::what_if::Change;
use hourglass_units::Price;

use crate::commands::instant;

/// What would have been otherwise.
#[derive(Debug, clap::Args)]
pub(super) struct Changes {
    /// Nodes more, such as eu/h100/f-1=2x8: two of eight GPUs
    #[arg(long, value_name = "POOL=NODESxGPUS")]
    add_nodes: Vec<Nodes>,
    /// Nodes fewer
    #[arg(long, value_name = "POOL=NODESxGPUS")]
    remove_nodes: Vec<Nodes>,
    /// Another reserve price, such as eu/h100/f-1=0.80
    #[arg(long, value_name = "POOL=PRICE")]
    reserve_price: Vec<Reserve>,
    /// A reservation that nobody uses and nobody lends, such as eu/h100/f-1=16@2026-11-01..2026-11-08@1.80; without a
    /// price it brings nothing
    #[arg(long, value_name = "POOL=GPUS@FROM..UNTIL[@PRICE]")]
    sell: Vec<Sold>,
}

impl Changes {
    pub(super) fn all(self) -> Vec<Change> {
        let added = self.add_nodes.into_iter();
        let added = added.map(|Nodes { pool, nodes, gpus }| Change::AddNodes { pool, nodes, gpus });
        let removed = self.remove_nodes.into_iter();
        let removed = removed.map(|Nodes { pool, nodes, gpus }| Change::RemoveNodes { pool, nodes, gpus });
        let prices = self.reserve_price.into_iter();
        let prices = prices.map(|Reserve { pool, price }| Change::ReservePrice { pool, price });
        added.chain(removed).chain(prices).chain(self.sell.into_iter().map(|Sold(sold)| sold)).collect()
    }
}

#[derive(Debug, Clone)]
struct Nodes {
    pool: PoolName,
    nodes: u32,
    gpus: u32,
}

#[derive(Debug, Clone)]
struct Reserve {
    pool: PoolName,
    price: Price,
}

#[derive(Debug, Clone)]
struct Sold(Change);

/// `POOL=…`.
fn of_pool(text: &str) -> Result<(PoolName, &str), String> {
    let (pool, rest) = text.split_once('=').ok_or_else(|| format!("{text:?} names no pool: write POOL=…"))?;
    Ok((pool.parse().map_err(|error| format!("{pool}: {error}"))?, rest))
}

impl FromStr for Nodes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pool, rest) = of_pool(text)?;
        let form = || format!("{rest:?} are no nodes: write 2x8 for two nodes of eight GPUs");
        let (nodes, gpus) = rest.split_once('x').ok_or_else(form)?;
        let (nodes, gpus) = (nodes.parse().map_err(|_| form())?, gpus.parse().map_err(|_| form())?);
        Ok(Self { pool, nodes, gpus })
    }
}

impl FromStr for Reserve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pool, price) = of_pool(text)?;
        Ok(Self { pool, price: Price::parse(price).map_err(|error| error.to_string())? })
    }
}

impl FromStr for Sold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pool, rest) = of_pool(text)?;
        let form =
            || format!("{rest:?} is no reservation: write GPUS@FROM..UNTIL, or GPUS@FROM..UNTIL@PRICE");
        let (gpus, rest) = rest.split_once('@').ok_or_else(form)?;
        let (time, price) = rest.split_once('@').map_or((rest, None), |(time, price)| (time, Some(price)));
        let (from, until) = time.split_once("..").ok_or_else(form)?;
        let price = price.map(Price::parse).transpose().map_err(|error| error.to_string())?;
        let gpus = gpus.parse().map_err(|_| form())?;
        Ok(Self(Change::SellReservation { pool, gpus, from: instant(from)?, until: instant(until)?, price }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read() {
        let nodes: Nodes = "eu/h100/f-1=2x8".parse().unwrap();
        assert_eq!((nodes.pool.to_string(), nodes.nodes, nodes.gpus), ("eu/h100/f-1".to_owned(), 2, 8));
        let Sold(sold) = "eu/h100/f-1=16@2026-11-01..2026-11-08@1.80".parse().unwrap();
        assert!(matches!(sold, Change::SellReservation { gpus: 16, price: Some(_), .. }), "{sold:?}");
        let Sold(free) = "eu/h100/f-1=16@2026-11-01T06:00:00Z..2026-11-08".parse().unwrap();
        assert!(matches!(free, Change::SellReservation { price: None, .. }), "{free:?}");
        for wrong in ["2x8", "eu/h100/f-1", "eu/h100/f-1=2", "eu/h100/f-1=2x", "h100=2x8"] {
            assert!(wrong.parse::<Nodes>().is_err(), "{wrong}");
        }
        for wrong in ["eu/h100/f-1=16", "eu/h100/f-1=16@2026-11-01", "eu/h100/f-1=x@2026-11-01..2026-11-02"] {
            assert!(wrong.parse::<Sold>().is_err(), "{wrong}");
        }
    }
}
