DROP INDEX event_roomless;
DROP TABLE event_horizon;
