"""From the formats of earlier releases to this one's: settings as they are read, stores by `datlstm migrate`."""
