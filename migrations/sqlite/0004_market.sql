-- Clearings are found without reading what stands between them. 55 is the kind `market_cleared`.
CREATE INDEX clearings ON events (position) WHERE kind = 55;
